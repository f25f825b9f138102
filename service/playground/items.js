// What the page knows of items, and how items, their scores and their reasons look.

import { call } from "./api.js";
import { make } from "./dom.js";

const IDS_A_CALL = 100;
const known = { video: new Map(), comment: new Map() };

/** Learn titles, categories and texts: answers lack some, histories are ids alone. */
export async function learn(items) {
  await Promise.all([learnKind("video", items), learnKind("comment", items)]);
}

async function learnKind(kind, items) {
  const wanted = new Set(items.map((item) => item[`${kind}_id`]));
  const ids = [...wanted].filter((id) => id && !known[kind].has(id));
  for (let start = 0; start < ids.length; start += IDS_A_CALL) {
    const some = ids.slice(start, start + IDS_A_CALL);
    const query = some.map((id) => `id=${encodeURIComponent(id)}`).join("&");
    const answer = await call("GET", `/${kind}s?${query}`);
    for (const id of some) known[kind].set(id, {}); // what isn't known needn't be asked again
    for (const item of answer[`${kind}s`]) known[kind].set(item[`${kind}_id`], item);
  }
}

export const video = (id) => known.video.get(id) ?? {};

export function categories() {
  const names = Array.from(known.video.values(), (each) => each.category).filter(Boolean);
  return [...new Set(names)].sort();
}

export const nameOf = (item) =>
  item.comment_id
    ? `“${known.comment.get(item.comment_id)?.text ?? item.comment_id}”`
    : (video(item.video_id).title ?? item.video_id);

export function categoryTag(id) {
  const { category } = video(id);
  return category ? make("span", { className: "tag" }, category) : null;
}

/** How an item moved against earlier ranks, in a sign, words and a class; null without any. */
export function movement(id, rank, earlier) {
  if (!earlier) return null;
  const before = earlier.get(id);
  if (before === undefined) return badge("new", "new here", "new");
  const places = Math.abs(before - rank);
  if (places === 0) return badge("=", "as before", "same");
  return before > rank ? badge(`▲ ${places}`, `up ${places}`, "up") : badge(`▼ ${places}`, `down ${places}`, "down");
}

function badge(sign, words, kind) {
  return make(
    "span",
    { className: `badge ${kind}`, title: words },
    make("span", { "aria-hidden": "true" }, sign),
    make("span", { className: "hidden" }, words),
  );
}

export const ranksOf = (items, name) => new Map(items.map((item) => [item[name], item.rank]));

/** A score as number and as a bar of its positive parts; `most` is the list's largest. */
export function scoreOf(item, most) {
  const parts = Object.entries(item.parts ?? { score: item.score });
  const bar = make("span", { className: "bar", "aria-hidden": "true" });
  for (const [name, value] of parts) {
    const piece = make("span", { className: `part part-${name}` });
    piece.style.width = `${(100 * Math.max(value, 0)) / most}%`;
    bar.append(piece);
  }
  const words = parts.map(([name, value]) =>
    make("span", { className: `key key-${name}` }, `${name} ${value.toFixed(2)}`),
  );
  return make(
    "p",
    { className: "score" },
    make("strong", {}, item.score.toFixed(2)),
    bar,
    make("span", { className: "parts" }, ...words),
  );
}

export const largest = (items) =>
  Math.max(
    1e-9,
    ...items.map((item) =>
      Object.values(item.parts ?? { score: item.score }).reduce((sum, part) => sum + Math.max(part, 0), 0),
    ),
  );

/** The history entries that an item rests on, with their shares. */
export function reasonsOf(because) {
  if (!because?.length) return null;
  const entries = because.map((reason) =>
    make("li", {}, make("span", { className: "share" }, `${Math.round(100 * reason.share)} %`), ` ${nameOf(reason)}`),
  );
  return make("div", { className: "why" }, make("span", {}, "because of"), make("ul", {}, ...entries));
}
