// Puts the views together.

import { useKey } from "./api.js";
import * as compare from "./compare.js";
import { attempt, byId } from "./dom.js";
import * as experiments from "./experiments.js";
import * as models from "./models.js";
import * as recommend from "./recommend.js";
import * as thread from "./thread.js";
import { offerUsers } from "./viewer.js";

const ENTER = {
  recommend: () => {},
  compare: () => attempt(compare.enter),
  admin: () => attempt(() => Promise.all([models.showHealth(), models.showModels(), experiments.showExperiments()])),
};

/** Where the address leads: `#recommend`, `#recommend/USER`, `#compare`, `#admin`. */
function place() {
  const [name, user = ""] = location.hash.slice(1).split("/");
  return name in ENTER ? [name, decodeURIComponent(user)] : ["recommend", ""];
}

let shown = "";

async function showView() {
  const [name] = place();
  if (shown === "compare" && name !== "compare") await attempt(compare.leave);
  shown = name;
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== `view-${name}`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  await ENTER[name]();
}

const readAnew = () =>
  attempt(() => Promise.all([offerUsers(), recommend.learnPopular(), recommend.view(byId("user").value.trim())]));

byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  byId("key-box").open = false;
  const [name] = place();
  await readAnew();
  location.hash = name;
  await showView();
});

const [, user] = place();
byId("user").value = user;
for (const part of [recommend, thread, compare, models, experiments]) part.start();
window.addEventListener("hashchange", showView);
await Promise.all([showView(), models.showHealth(), readAnew()]);
document.documentElement.dataset.ready = "true";
