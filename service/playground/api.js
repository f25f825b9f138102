// Calls the service, and keeps the list of requests with their times and curl commands.

import { byId, button, make } from "./dom.js";

const SHOWN_REQUESTS = 30;
const SHOWN_CHARACTERS = 20_000;
const commands = new WeakMap(); // the curl command of each answer
let key = "";
let count = 0;

export function useKey(value) {
  key = value.trim();
}

/** What the service refused, in its own words. */
export class Problem extends Error {
  constructor(status, problem) {
    const advice = status === 401 || status === 403 ? " Type one under “Key”, above." : "";
    const words = (problem.detail ?? problem.title ?? "no reason given").replace(/\.$/, "");
    super(`${status}: ${words}.${advice}`);
    this.status = status;
  }
}

/** One request that goes into the list; its JSON, or a Problem. */
export async function call(method, path, body, headers = {}) {
  const started = performance.now();
  const curl = curlOf(method, path, body, headers);
  const entry = { method, path, curl };
  let status = "no answer";
  let answer = null;
  try {
    ({ status, answer } = await send(method, path, body, headers));
  } finally {
    note({ ...entry, status, answer, took: performance.now() - started });
  }
  if (status >= 400) throw new Problem(status, answer ?? {});
  if (answer) commands.set(answer, curl);
  return answer;
}

/** As `call`, for what the page asks again and again: it stays out of the list. */
export async function ask(path) {
  const { status, answer } = await send("GET", path, undefined, {});
  if (status >= 400) throw new Problem(status, answer ?? {});
  return answer;
}

/** A last request, whose answer this page won't live to see. */
export const callOnLeaving = (method, path, body) => fetch(absolute(path), { ...optionsOf(method, body, {}), keepalive: true });

/** A button that copies the curl command which gives this answer again. */
export const curlButton = (answer, what) => copyButton(commands.get(answer), what);

async function send(method, path, body, headers) {
  let response;
  try {
    response = await fetch(absolute(path), optionsOf(method, body, headers));
  } catch {
    throw new Error("The service does not answer.");
  }
  const text = await response.text();
  return { status: response.status, answer: text ? JSON.parse(text) : null };
}

function optionsOf(method, body, headers) {
  const options = { method, headers: { ...headers } };
  if (key) options.headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  return options;
}

const absolute = (path) => new URL(path.replace(/^\//, ""), document.baseURI);

function curlOf(method, path, body, headers) {
  const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
  const parts = ["curl -s"];
  if (method !== "GET" && body === undefined) parts.push(`-X ${method}`);
  if (method === "PUT" && body !== undefined) parts.push("-X PUT");
  parts.push(quote(absolute(path).href));
  // The key itself stays out of the clipboard.
  if (key) parts.push('-H "Authorization: Bearer $LSVCR_KEY"');
  for (const [name, value] of Object.entries(headers)) parts.push(`-H ${quote(`${name}: ${value}`)}`);
  if (body !== undefined) parts.push(`-H 'Content-Type: application/json' -d ${quote(JSON.stringify(body))}`);
  return parts.join(" \\\n  ");
}

function note({ method, path, status, took, curl, answer }) {
  count += 1;
  const inside = answer?.timings_ms?.total;
  const times = `${took.toFixed(0)} ms${inside === undefined ? "" : `, ${inside.toFixed(1)} ms inside the service`}`;
  const line = () => [
    make("code", {}, `${method} ${path.split("?")[0]}`),
    make("span", { className: status < 400 ? "good" : "bad" }, String(status)),
    make("span", { className: "note" }, times),
  ];
  const json = answer ? JSON.stringify(answer, null, 1) : "";
  const shown = json.length > SHOWN_CHARACTERS ? `${json.slice(0, SHOWN_CHARACTERS)}\n…` : json;
  const details = make(
    "details",
    {},
    make("summary", {}, ...line()),
    make("pre", { tabIndex: 0, className: "curl" }, curl),
    make("pre", { tabIndex: 0 }, shown),
  );
  const list = byId("requests");
  list.prepend(make("li", {}, details, copyButton(curl, `${method} ${path.split("?")[0]}`)));
  while (list.children.length > SHOWN_REQUESTS) list.lastElementChild.remove();
  byId("requests-summary").replaceChildren(make("strong", {}, `Requests (${count})`), ...line());
}

function copyButton(curl, what) {
  const copy = button("curl", async () => {
    copy.textContent = (await copyText(curl)) ? "copied" : "see Requests";
    setTimeout(() => (copy.textContent = "curl"), 1500);
  });
  copy.className = "small";
  copy.title = "Copy this request as a curl command";
  copy.setAttribute("aria-label", `Copy as curl: ${what}`);
  return copy;
}

/** Copy; where the browser forbids it (plain http from elsewhere) mark the text for copying. */
async function copyText(curl) {
  try {
    await navigator.clipboard.writeText(curl);
    return true;
  } catch {
    const shown = [...document.querySelectorAll("#requests .curl")].find((each) => each.textContent === curl);
    byId("requests-drawer").open = true;
    if (shown) {
      shown.closest("details").open = true;
      getSelection().selectAllChildren(shown);
    }
    return false;
  }
}
