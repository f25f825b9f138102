// The first view: a viewer, the videos for them, and one video's comments.

import { call, curlButton } from "./api.js";
import { attempt, button, byId, make, refill } from "./dom.js";
import { categoryTag, largest, learn, movement, nameOf, ranksOf, reasonsOf, scoreOf } from "./items.js";
import { closeVideo, markOpen, openVideo, refreshComments } from "./thread.js";
import { act, anyUser, choose, isAnonymous, who } from "./viewer.js";
import * as wishes from "./wishes.js";

const STAGES = ["history", "queue", "encode", "retrieve"];
const POPULAR = 100;

let shown = null; // the answer on screen, to tell what moved
let turn = 0; // an answer that comes after a newer question is dropped

export function start() {
  byId("viewer-form").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(() => view(byId("user").value.trim()));
  });
  byId("someone").addEventListener("click", () => attempt(() => view(anyUser())));
  byId("forget").addEventListener("click", () => attempt(() => view("")));
  wishes.start(() => attempt(recommend));
}

/** Turn to another viewer; an empty id is somebody anonymous. */
export async function view(id) {
  shown = null;
  closeVideo();
  await choose(id);
  await recommend();
}

/** Learn the popular videos, and so most of the categories that a filter may name. */
export async function learnPopular() {
  const nobody = { history: { videos: [], comments: [] } };
  const { items } = await call("POST", "/recommend/videos", { ...nobody, k: POPULAR });
  await learn(items);
  wishes.showCategories();
}

/** Ask for videos and show what moved. */
export async function recommend() {
  const mine = ++turn;
  const answer = await call("POST", "/recommend/videos", { ...who(), ...wishes.wishes(), explain: true });
  await learn(answer.items);
  if (mine !== turn) return;
  wishes.showCategories();
  const earlier = shown ? ranksOf(shown.items, "video_id") : null;
  shown = answer;
  const shared = sharedReasons(answer.items);
  const most = largest(answer.items);
  refill(byId("videos"), answer.items.map((item) => videoCard(item, most, earlier, shared)));
  markOpen();
  byId("videos-title").textContent = isAnonymous() ? "Videos" : `Videos for ${answer.user_id}`;
  byId("videos-note").textContent = summary(answer, earlier);
  byId("videos-curl").replaceChildren(curlButton(answer, "these videos"));
  byId("videos-why").replaceChildren(...(shared ? [reasonsOf(shared)] : []));
  showTimings(answer.timings_ms);
}

/** Where all videos rest on the same entries, as with one preference vector, say it once. */
function sharedReasons(items) {
  const words = new Set(items.map((item) => JSON.stringify(item.because ?? [])));
  return words.size === 1 && items[0].because?.length ? items[0].because : null;
}

function videoCard(item, most, earlier, shared) {
  const id = item.video_id;
  const name = nameOf(item);
  const does = (type, word) =>
    button(word, () => attempt(() => doAndRecommend(type, item)), {
      "aria-label": `${word}: ${name}`,
      "data-focus": `${type} ${id}`,
    });
  return make(
    "li",
    { className: "card", "data-id": id },
    make(
      "div",
      { className: "title" },
      make("span", { className: "rank" }, String(item.rank)),
      make("h4", {}, name),
      categoryTag(id),
      movement(id, item.rank, earlier),
    ),
    scoreOf(item, most),
    shared ? null : reasonsOf(item.because),
    make(
      "p",
      { className: "actions" },
      does("video_watch", "Watch"),
      does("video_like", "Like"),
      does("video_share", "Share"),
      button("Comments", () => attempt(() => openVideo(item, afterAction)), {
        "aria-label": `Comments under: ${name}`,
        "data-focus": `open ${id}`,
      }),
    ),
  );
}

async function doAndRecommend(type, item) {
  await act(type, item, shown?.recommendation_id);
  await afterAction();
}

const afterAction = () => Promise.all([recommend(), refreshComments()]);

function summary(answer, earlier) {
  const words = [answer.source === "model" ? "from the model" : "the popular list"];
  const { arm, experiment } = answer.model;
  if (arm) words.push(`arm ${arm} of ${experiment}`);
  if (answer.degraded.length) words.push(`without ${answer.degraded.join(", ")}`);
  if (!answer.items.length) words.push("no video matches");
  if (earlier) {
    const fresh = answer.items.filter((item) => !earlier.has(item.video_id)).length;
    const up = answer.items.filter((item) => earlier.get(item.video_id) > item.rank).length;
    words.push([fresh && `${fresh} new`, up && `${up} moved up`].filter(Boolean).join(", ") || "nothing moved");
  }
  return words.join(" · ");
}

function showTimings(timings) {
  const total = Math.max(timings.total, 1e-6);
  const named = STAGES.filter((stage) => stage in timings).map((stage) => [stage, timings[stage]]);
  const rest = total - named.reduce((sum, [, took]) => sum + took, 0);
  const stages = [...named, ["rest", Math.max(rest, 0)]];
  const pieces = stages.map(([stage, took]) => {
    const piece = make("span", { className: `stage-${stage}` });
    piece.style.width = `${(100 * took) / total}%`;
    return piece;
  });
  const words = stages.map(([stage, took]) =>
    make("span", { className: `key key-${stage}` }, `${stage} ${took.toFixed(1)}`),
  );
  byId("timings").replaceChildren(
    make("span", { className: "bar", "aria-hidden": "true" }, ...pieces),
    make("strong", {}, `${total.toFixed(1)} ms`),
    ...words,
  );
}
