// Who looks, and what they did: a stored user, or somebody anonymous whose history is in this page.

import { ask, call } from "./api.js";
import { byId, make, refill } from "./dom.js";
import { learn, nameOf } from "./items.js";

const WORDS = {
  video_watch: "watched",
  video_like: "liked",
  video_share: "shared",
  comment_like: "liked",
  comment_reply: "replied to",
  comment_write: "wrote",
};
const SHOWN_EVENTS = 60;
const OFFERED_USERS = 50;

let userId = "";
let videos = [];
let comments = [];

export const isAnonymous = () => userId === "";

/** Whose history a request uses. */
export function who() {
  if (!isAnonymous()) return { user_id: userId };
  const bare = (events, name) => events.map((event) => ({ [name]: event[name], timestamp: event.timestamp }));
  return { history: { videos: bare(videos, "video_id"), comments: bare(comments, "comment_id") } };
}

/** Offer users to pick from; a key without the role `admin` may not list them, and types one. */
export async function offerUsers() {
  try {
    const { user_ids: ids } = await ask(`/users?limit=${OFFERED_USERS}`);
    byId("users").replaceChildren(...ids.map((id) => make("option", { value: id })));
    byId("someone").hidden = ids.length === 0;
  } catch {
    byId("someone").hidden = true;
  }
}

/** One of the users on offer, another one than now where there are several. */
export function anyUser() {
  const ids = Array.from(byId("users").options, (option) => option.value).filter((id) => id !== userId);
  return ids[Math.floor(Math.random() * ids.length)] ?? userId;
}

export async function choose(id) {
  userId = id;
  videos = [];
  comments = [];
  byId("user").value = id;
  // So that the address can be sent to somebody; the other views keep theirs.
  if (/^(#recommend.*)?$/.test(location.hash)) history.replaceState(null, "", `#recommend${id && `/${encodeURIComponent(id)}`}`);
  const note = byId("viewer-note");
  note.textContent = isAnonymous()
    ? "Anonymous: what you click stays in this page and goes along with each request."
    : "A stored user: what you click is sent as a real event.";
  if (!isAnonymous()) await readHistory(note);
  await showHistory();
}

async function readHistory(note) {
  try {
    ({ videos, comments } = await call("GET", `/users/${encodeURIComponent(userId)}/history`));
  } catch (error) {
    note.textContent = `The history can't be shown (${error.message}) Recommendations still use it.`;
  }
}

/** Record an action: in the store for a user, in this page for nobody in particular. */
export async function act(type, item, recommendationId) {
  const name = type.startsWith("video_") ? "video_id" : "comment_id";
  const event = { type, [name]: item[name], timestamp: Date.now() };
  if (!isAnonymous()) {
    const sent = { event_id: newEventId(), user_id: userId, ...event, recommendation_id: recommendationId };
    const { rejected } = await call("POST", "/events", { events: [sent] });
    if (rejected.length) throw new Error(rejected[0].detail);
  }
  (name === "video_id" ? videos : comments).push(event);
  await showHistory();
}

// Not crypto.randomUUID: browsers offer it to secure origins only.
function newEventId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `playground-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

async function showHistory() {
  const events = [...videos, ...comments].sort((a, b) => b.timestamp - a.timestamp);
  const newest = events.slice(0, SHOWN_EVENTS);
  await learn(newest);
  byId("history-title").textContent = `History: ${videos.length} videos, ${comments.length} comments`;
  byId("forget").hidden = !isAnonymous() || events.length === 0;
  const entries = newest.map((event) =>
    make(
      "li",
      { className: event.video_id ? "video" : "comment" },
      make("span", { className: "verb" }, WORDS[event.type] ?? event.type),
      ` ${nameOf(event)} `,
      make("time", { dateTime: new Date(event.timestamp).toISOString() }, dayOf(event.timestamp)),
    ),
  );
  if (!entries.length) entries.push(make("li", { className: "note" }, "Nothing yet: watch or like a video."));
  refill(byId("history"), entries);
}

const dayOf = (timestamp) => new Date(timestamp).toLocaleDateString(undefined, { dateStyle: "medium" });
