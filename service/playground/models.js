// The registry's models and the service's health.

import { ask, call } from "./api.js";
import { attempt, button, byId, make } from "./dom.js";

const EVERY_MS = 15_000;

export function start() {
  byId("refresh-models").addEventListener("click", () => change("POST", "/admin/models/refresh"));
  byId("rollback").addEventListener("click", () => change("POST", "/admin/models/rollback"));
  setInterval(() => document.hidden || showHealth(), EVERY_MS);
}

/** The header's line, and the facts below Health. */
export async function showHealth() {
  const line = byId("health");
  try {
    const { degraded, model } = await ask("/health/ready");
    const missing = degraded.length ? ` · without ${degraded.join(", ")}` : "";
    tell(line, degraded.length ? "warn" : "good", `${model.version}${missing}`);
    facts({ status: "ready", degraded: degraded.join(", ") || "nothing is missing", ...model });
  } catch (error) {
    tell(line, "bad", "not ready");
    facts({ status: "not ready", reason: error.message });
  }
}

/** Say it only where it changed: screen readers read every change aloud. */
function tell(line, state, words) {
  if (line.textContent === words && line.className === state) return;
  line.className = state;
  line.textContent = words;
}

function facts(values) {
  const rows = Object.entries(values).flatMap(([name, value]) => [
    make("dt", {}, name.replaceAll("_", " ")),
    make("dd", {}, inWords(value)),
  ]);
  byId("health-list").replaceChildren(...rows);
}

function inWords(value) {
  if (value === null) return "–";
  if (Array.isArray(value)) return value.join(", ");
  if (typeof value !== "object") return typeof value === "number" ? value.toLocaleString() : String(value);
  return Object.entries(value).map(([name, each]) => `${name.replaceAll("_", " ")} ${inWords(each)}`).join(", ");
}

async function change(method, path) {
  const answer = await attempt(() => call(method, path));
  if (answer === undefined) return;
  await attempt(() => Promise.all([showModels(), showHealth()]));
  byId("models-note").textContent = `Now answering: ${answer.current}`;
}

export async function showModels() {
  const { models } = await call("GET", "/admin/models");
  byId("versions").replaceChildren(...models.map(({ version }) => make("option", { value: version })));
  byId("models").replaceChildren(...models.reverse().map(modelRow));
}

function modelRow({ version, counts, error, current, loaded, created_at: made }) {
  const state = error ?? ([current && "current", loaded && "loaded"].filter(Boolean).join(", ") || "in the registry");
  const activate = () => change("POST", `/admin/models/${encodeURIComponent(version)}/activate`);
  const number = (value) => value.toLocaleString();
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, make("code", {}, version)),
    make("td", {}, made ? new Date(made).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : ""),
    make("td", {}, counts ? `${number(counts.videos)} videos, ${number(counts.comments)} comments` : ""),
    make("td", {}, make("span", { className: error ? "badge down" : current ? "badge up" : "badge same" }, state)),
    make("td", {}, current || error ? "" : button("Activate", activate, { "aria-label": `Activate ${version}`, className: "small" })),
  );
}
