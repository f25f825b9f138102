// The open video: its comments for this viewer beside the popular order, and videos like it.

import { call, curlButton } from "./api.js";
import { attempt, button, byId, make, refill } from "./dom.js";
import { categoryTag, largest, learn, movement, nameOf, ranksOf, reasonsOf, scoreOf, video } from "./items.js";
import { act, who } from "./viewer.js";

const COMMENTS = 50;
const SIMILAR = 8;

let open = null; // {video_id}, and what to do after an action

export function start() {
  byId("similar-box").addEventListener("toggle", () => attempt(showSimilar));
}

/** Show a video's comments; `afterAction` is called once something was liked or answered. */
export async function openVideo(item, afterAction) {
  open = { video_id: item.video_id, afterAction };
  byId("similar-box").open = false;
  markOpen();
  await refreshComments();
  byId("comments-title").focus({ preventScroll: true });
  byId("comments-panel").scrollIntoView({ block: "nearest" });
}

export function closeVideo() {
  open = null;
  byId("thread").hidden = true;
  byId("comments-title").textContent = "Comments";
  byId("comments-note").textContent = "Open a video to see its comments, for this viewer and by popularity.";
  byId("comments-curl").replaceChildren();
}

/** Mark the open video's card, wherever it stands now. */
export function markOpen() {
  for (const card of byId("videos").children) card.classList.toggle("open", card.dataset.id === open?.video_id);
}

export async function refreshComments() {
  if (!open) return;
  const { video_id } = open;
  const under = { video_id, k: COMMENTS, explain: true };
  const nobody = { history: { videos: [], comments: [] } };
  const [own, popular] = await Promise.all([
    call("POST", "/recommend/comments", { ...who(), ...under }),
    call("POST", "/recommend/comments", { ...nobody, ...under }),
  ]);
  const reasons = own.items.flatMap((item) => item.because ?? []);
  await learn([...own.items, ...popular.items, ...reasons]);
  if (open?.video_id === video_id) show(own, popular);
}

function show(own, popular) {
  const popularRanks = ranksOf(popular.items, "comment_id");
  const most = largest(own.items);
  byId("comments-title").replaceChildren(nameOf(open), " ", categoryTag(open.video_id) ?? "");
  const { author_id: author, published_at: published } = video(open.video_id);
  const facts = [
    author && `by ${author}`,
    published && new Date(published).toLocaleDateString(undefined, { dateStyle: "medium" }),
    { 0: "no comments", 1: "one comment" }[own.items.length] ??
      `${own.items.length} comments; signs compare with the popular order`,
  ];
  byId("comments-note").textContent = facts.filter(Boolean).join(" · ");
  byId("comments-curl").replaceChildren(curlButton(own, "these comments"));
  byId("thread").hidden = false;
  byId("comments-columns").hidden = own.items.length === 0;
  refill(byId("own"), own.items.map((item) => commentCard(item, own, most, popularRanks)));
  refill(byId("popular"), popular.items.map((item) => make("li", {}, make("p", {}, item.text))));
}

function commentCard(item, answer, most, popularRanks) {
  const does = (type, word) =>
    button(word, () => attempt(async () => {
      await act(type, item, answer.recommendation_id);
      await open.afterAction();
    }), { "aria-label": `${word}: ${item.text}`, "data-focus": `${type} ${item.comment_id}`, className: "small" });
  return make(
    "li",
    { "data-id": item.comment_id },
    make("p", { className: "text" }, make("span", {}, item.text), movement(item.comment_id, item.rank, popularRanks)),
    scoreOf(item, most),
    make(
      "div",
      { className: "actions" },
      does("comment_like", "Like"),
      does("comment_reply", "Reply"),
      item.because?.length ? make("details", {}, make("summary", {}, "why"), reasonsOf(item.because)) : null,
    ),
  );
}

async function showSimilar() {
  if (!open || !byId("similar-box").open) return;
  const answer = await call("GET", `/videos/${encodeURIComponent(open.video_id)}/similar?k=${SIMILAR}`);
  await learn(answer.items);
  const { afterAction } = open;
  byId("similar").replaceChildren(
    ...answer.items.map((item) =>
      make(
        "li",
        {},
        make("span", { className: "share" }, item.score.toFixed(2)),
        button(nameOf(item), () => attempt(() => openVideo(item, afterAction)), { className: "link" }),
        categoryTag(item.video_id),
      ),
    ),
  );
}
