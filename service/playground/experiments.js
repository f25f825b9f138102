// Experiments: create, ramp, start, stop, forget, and read the report.

import { call } from "./api.js";
import { attempt, button, byId, make } from "./dom.js";
import { drawReport, table } from "./report.js";

const FROM_SERVICE = ["created_at", "changed_at", "in_effect"]; // told with a definition, not part of it

export function start() {
  const form = byId("experiment-form");
  byId("add-arm").addEventListener("click", () => addArm(""));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(() => create(form));
  });
  form.addEventListener("reset", () => setTimeout(firstArms));
  firstArms();
}

/** List them; a service without experiments has no such path. */
export async function showExperiments() {
  let experiments;
  try {
    ({ experiments } = await call("GET", "/admin/experiments"));
  } catch (error) {
    if (error.status !== 404) throw error;
    byId("experiments").replaceChildren(make("p", { className: "note" }, "This service has no experiments."));
    byId("experiment-box").hidden = true;
    return;
  }
  byId("experiment-box").hidden = false;
  const cards = experiments.map(card);
  byId("experiments").replaceChildren(
    ...(cards.length ? cards : [make("p", { className: "note" }, "None yet.")]),
  );
}

function card(experiment) {
  const { name, status, coverage, arms, control, guardrails, primary_metric: metric } = experiment;
  const path = `/admin/experiments/${encodeURIComponent(name)}`;
  const change = (action) => attempt(async () => {
    await action();
    await showExperiments();
  });
  const put = (changes) => change(() => {
    const definition = { ...experiment, ...changes };
    for (const field of FROM_SERVICE) delete definition[field];
    return call("PUT", path, definition);
  });
  const report = make("div", { className: "report" });
  const labelled = (word) => ({ "aria-label": `${word} ${name}`, className: "small" });
  return make(
    "article",
    { className: "experiment" },
    make(
      "div",
      { className: "title" },
      make("h4", {}, name),
      make("span", { className: status === "running" ? "badge up" : "badge same" }, status),
    ),
    make(
      "p",
      { className: "note" },
      `decided by ${metric}, ${percent(coverage)} of the users take part`,
      guardrails ? `, stops by itself beyond ${inWords({ ...guardrails, answers: null })}` : "",
      experiment.in_effect ? "" : " · not in effect on this replica",
    ),
    shares(arms, control),
    make(
      "div",
      { className: "actions" },
      ...rampControls(name, coverage, put),
      status === "running"
        ? button("Stop", () => change(() => call("POST", `${path}/stop`)), { ...labelled("Stop"), className: "small danger" })
        : button("Start", () => put({ status: "running" }), labelled("Start")),
      button("Report", () => attempt(() => showReport(report, path)), labelled("Report of")),
      button("Changes", () => attempt(() => showChanges(report, path)), labelled("Changes of")),
      status === "running" ? null : button("Delete", () => change(() => call("DELETE", path)), { ...labelled("Delete"), className: "small danger" }),
    ),
    report,
  );
}

async function showReport(box, path) {
  box.replaceChildren(make("p", { className: "note" }, "Reading the logs, some seconds …"));
  try {
    drawReport(box, await call("GET", `${path}/report`));
  } catch (error) {
    box.replaceChildren();
    throw error;
  }
}

/** Who changed what, the newest first. */
async function showChanges(box, path) {
  const { entries } = await call("GET", `${path}/audit`);
  const rows = entries.map(({ at, who, action, why }) => [
    new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }),
    action,
    who,
    why ?? "",
  ]);
  box.replaceChildren(table(["When", "What", "Who", "Why"], rows));
}

function rampControls(name, coverage, put) {
  const told = make("output", {}, percent(coverage));
  const slider = make("input", { type: "range", min: 0, max: 1, step: 0.01, value: coverage, "aria-label": `Coverage of ${name}` });
  slider.addEventListener("input", () => (told.textContent = percent(Number(slider.value))));
  const ramp = () => put({ coverage: Number(slider.value) });
  return [slider, told, button("Ramp", ramp, { "aria-label": `Ramp ${name}`, className: "small" })];
}

/** The arms as one bar, and in words. */
function shares(arms, control) {
  const bar = make("div", { className: "bar tall", "aria-hidden": "true" });
  const words = arms.map((arm, number) => {
    const piece = make("span", { className: `arm-${number % 4}` });
    piece.style.width = `${100 * arm.weight}%`;
    bar.append(piece);
    const details = [
      arm.model_version ?? "current model",
      arm.name === control && "control",
      arm.shadow && "shadow",
      inWords(arm.overrides),
    ];
    return make("li", { className: `key key-arm-${number % 4}` }, `${arm.name} ${percent(arm.weight)}: ${details.filter(Boolean).join(", ")}`);
  });
  return make("div", { className: "shares" }, bar, make("ul", {}, ...words));
}

/** Settings that are set, such as `diversity lambda 0.6, popularity weight 2`. */
function inWords(settings) {
  if (settings === null || settings === undefined) return "";
  if (typeof settings !== "object") return String(settings);
  return Object.entries(settings)
    .map(([name, value]) => [name.replaceAll("_", " "), inWords(value)])
    .filter(([, value]) => value)
    .map(([name, value]) => `${name} ${value}`)
    .join(", ");
}

const percent = (part) => `${Number((100 * part).toFixed(2))} %`;

function firstArms() {
  byId("arm-rows").replaceChildren();
  addArm("control");
  addArm("treatment");
}

function addArm(name) {
  const field = (label, properties) => make("label", {}, label, " ", make("input", properties));
  const row = make(
    "li",
    { className: "line" },
    field("Arm", { name: "arm", value: name, required: true, maxLength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", autocomplete: "off" }),
    field("Weight", { name: "weight", type: "number", min: 0, max: 1, step: "any", value: 0.5, required: true }),
    make("label", { className: "grow" }, "Model version ", versionInput()),
  );
  byId("arm-rows").append(row);
  const inputs = byId("arm-rows").querySelectorAll('[name="weight"]');
  for (const input of inputs) input.value = Number((1 / inputs.length).toFixed(4));
}

function versionInput() {
  const input = make("input", { name: "version", placeholder: "the current one", autocomplete: "off" });
  input.setAttribute("list", "versions");
  return input;
}

async function create(form) {
  const fields = new FormData(form);
  const [names, weights, versions] = ["arm", "weight", "version"].map((field) => fields.getAll(field));
  const arms = names.map((name, number) => ({
    name,
    weight: Number(weights[number]),
    ...(versions[number] ? { model_version: versions[number] } : {}),
  }));
  // Thirds as people type them don't sum to 1.
  const rest = 1 - arms.slice(1).reduce((sum, arm) => sum + arm.weight, 0);
  if (Math.abs(rest - arms[0].weight) < 0.01) arms[0].weight = rest;
  const name = fields.get("name");
  await call("PUT", `/admin/experiments/${encodeURIComponent(name)}`, {
    name,
    arms,
    control: names[0],
    coverage: Number(fields.get("coverage")),
    primary_metric: fields.get("primary_metric"),
    status: fields.get("running") ? "running" : "draft",
  });
  form.reset();
  byId("experiment-box").open = false;
  await showExperiments();
}
