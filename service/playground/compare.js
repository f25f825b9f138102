// Two answers to one question side by side, and where they differ.

import { call, callOnLeaving, curlButton } from "./api.js";
import { attempt, byId, make, refill } from "./dom.js";
import { categoryTag, largest, learn, movement, nameOf, ranksOf, scoreOf } from "./items.js";
import { isAnonymous, who } from "./viewer.js";
import { wishes } from "./wishes.js";

const EXPERIMENT = "playground"; // nobody is in it: it keeps two versions loaded, for this page to force
const PATH = `/admin/experiments/${EXPERIMENT}`;
const ATTEMPTS = 6;
const PAUSE_MS = 300;
const SIDES = ["left", "right"];
const answers = new Map(); // by side

export function start() {
  byId("compare-form").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(compare);
  });
  byId("release").addEventListener("click", () => attempt(release));
  window.addEventListener("pagehide", leavePage);
}

/** Offer what there is to compare; without the role `admin` only the present answer. */
export async function enter() {
  const [versions, experiments] = await Promise.all([
    call("GET", "/admin/models").then(({ models }) => models.filter(({ error }) => !error), () => []),
    call("GET", "/admin/experiments").then(({ experiments }) => experiments, () => null),
  ]);
  const running = (experiments ?? []).filter(({ status }) => status === "running");
  const groups = [
    ["", [["now:", "as it is answered now"]]],
    ["Arms", running.filter(({ name }) => name !== EXPERIMENT).flatMap(({ name, arms }) =>
      arms.filter(({ shadow }) => !shadow).map((arm) => [`arm:${name}/${arm.name}`, `${arm.name} of ${name}`]))],
    ["Model versions", experiments ? versions.map(({ version, current }) =>
      [`version:${version}`, `${version}${current ? ", current" : ""}`]) : []],
  ];
  for (const side of SIDES) offer(byId(`${side}-choice`), groups);
  byId("release").hidden = !running.some(({ name }) => name === EXPERIMENT);
  byId("compare-hint").textContent = experiments
    ? ""
    : "There is nothing to force here: that needs a key of the role admin, and a service with experiments. " +
      "An answer stays until it is asked again, so you can still ask, activate another version under Admin, and ask the other side.";
  tellWho();
}

const tellWho = () =>
  (byId("compare-who").textContent =
    `For ${isAnonymous() ? "the anonymous viewer" : who().user_id} of the first view, with its filters.`);

function offer(select, groups) {
  const before = select.value;
  const options = (entries) => entries.map(([value, label]) => make("option", { value }, label));
  select.replaceChildren(
    ...groups.filter(([, entries]) => entries.length).flatMap(([label, entries]) =>
      label ? [make("optgroup", { label }, ...options(entries))] : options(entries)),
  );
  if ([...select.options].some(({ value }) => value === before)) select.value = before;
}

async function compare() {
  tellWho();
  const chosen = Object.fromEntries(SIDES.map((side) => [side, byId(`${side}-choice`).value]));
  await loadVersions(chosen);
  const wanted = SIDES.filter((side) => byId(`${side}-ask`).checked);
  const found = await Promise.all(wanted.map((side) => askFor(side, chosen[side])));
  wanted.forEach((side, number) => answers.set(side, found[number]));
  await learn(found.flatMap(({ items }) => items));
  const [left, right] = SIDES.map((side) => answers.get(side));
  show("left", right);
  show("right", left);
  tellDifference(left, right);
}

/** Forced answers are exposures of a unit of their own, so that no user's arm is blurred. */
async function askFor(side, choice) {
  const body = { ...who(), ...wishes(), explain: true };
  if (choice === "now:") return call("POST", "/recommend/videos", body);
  const [experiment, arm] = choice.startsWith("arm:")
    ? choice.slice("arm:".length).split("/")
    : [EXPERIMENT, `${EXPERIMENT}-${side}`];
  const headers = { "X-Experiment": experiment, "X-Arm": arm };
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call("POST", "/recommend/videos", { ...body, unit_id: EXPERIMENT }, headers);
    } catch (error) {
      // Another worker or replica may learn of the arm up to a second later.
      if (error.status !== 422 || attempt === ATTEMPTS) throw error;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
}

/** Have the service load the chosen versions beside the current one. */
async function loadVersions(chosen) {
  const versions = SIDES.map((side) => chosen[side].match(/^version:(.*)$/)?.[1]);
  if (!versions.some(Boolean)) return;
  const arms = SIDES.map((side, number) => ({
    name: `${EXPERIMENT}-${side}`,
    ...(versions[number] ? { model_version: versions[number] } : {}),
  }));
  await call("PUT", PATH, definition("running", arms));
  byId("release").hidden = false;
}

/** Nobody takes part, and the control is what everybody gets anyway. */
const definition = (status, arms) => ({
  name: EXPERIMENT,
  coverage: 0,
  arms: [{ name: `${EXPERIMENT}-control`, weight: 1 }, ...arms],
  control: `${EXPERIMENT}-control`,
  status,
});

/** Let the service unload the versions; a draft has no say, so this goes by unnoticed. */
async function release() {
  await call("PUT", PATH, definition("draft", []));
  await call("DELETE", PATH);
  byId("release").hidden = true;
}

/** Nothing stays behind when somebody goes elsewhere, or closes the page. */
export const leave = () => (byId("release").hidden ? undefined : release());

function leavePage() {
  if (!byId("release").hidden) callOnLeaving("PUT", PATH, definition("draft", []));
}

function show(side, other) {
  const answer = answers.get(side);
  if (!answer) return;
  const { version, arm, experiment } = answer.model;
  byId(`${side}-note`).textContent =
    `${answer.source === "model" ? "model" : "popular list of"} ${version}` +
    `${arm && experiment !== EXPERIMENT ? `, arm ${arm} of ${experiment}` : ""} · ${answer.timings_ms.total.toFixed(1)} ms`;
  byId(`${side}-curl`).replaceChildren(curlButton(answer, `the ${side} answer`));
  const ranks = other ? ranksOf(other.items, "video_id") : null;
  const most = largest(answer.items);
  refill(byId(`${side}-items`), answer.items.map((item) =>
    make(
      "li",
      { className: ranks && !ranks.has(item.video_id) ? "card differs" : "card", "data-id": item.video_id },
      make(
        "div",
        { className: "title" },
        make("span", { className: "rank" }, String(item.rank)),
        make("h4", {}, nameOf(item)),
        categoryTag(item.video_id),
        ranks && !ranks.has(item.video_id)
          ? make("span", { className: "badge new" }, "only here")
          : movement(item.video_id, item.rank, ranks),
      ),
      scoreOf(item, most),
    )));
}

function tellDifference(left, right) {
  if (!left || !right) return;
  const ranks = ranksOf(left.items, "video_id");
  const both = right.items.filter((item) => ranks.has(item.video_id));
  const same = both.filter((item) => ranks.get(item.video_id) === item.rank).length;
  byId("compare-note").textContent =
    `${both.length} of ${Math.max(left.items.length, right.items.length)} in both, ${same} at the same rank. ` +
    "Signs tell how a side ranks an item against the other side.";
}
