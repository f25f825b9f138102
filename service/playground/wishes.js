// Filters and diversity, as the form has them and as fields of a request for videos.

import { byId, make } from "./dom.js";
import { categories } from "./items.js";

const NEXT = { any: "only", only: "never", never: "any" };
const SIGNS = { any: "", only: "✓ ", never: "✕ " };
const chosen = new Map(); // by category: "only" or "never"

/** Tell `changed` whenever the wishes are other ones. */
export function start(changed) {
  const form = byId("wishes");
  const tellLambda = () => (byId("lambda-value").value = Number(byId("lambda").value).toFixed(2));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", tellLambda);
  form.addEventListener("change", () => form.reportValidity() && changed());
  form.addEventListener("reset", () =>
    setTimeout(() => {
      chosen.clear();
      tellLambda();
      showCategories();
      changed();
    }),
  );
  byId("categories").addEventListener("click", ({ target }) => {
    const name = target.dataset.category;
    if (name === undefined) return;
    const state = NEXT[chosen.get(name) ?? "any"];
    if (state === "any") chosen.delete(name);
    else chosen.set(name, state);
    label(target, name);
    changed();
  });
}

/** Offer the categories seen so far. */
export function showCategories() {
  const box = byId("categories");
  const names = categories();
  const shown = Array.from(box.children, (chip) => chip.dataset.category);
  if (names.join("\n") === shown.join("\n") && chosen.size) return;
  box.replaceChildren(
    ...names.map((name) => label(make("button", { type: "button", "data-category": name }), name)),
  );
}

function label(chip, name) {
  const state = chosen.get(name) ?? "any";
  chip.className = `chip ${state}`;
  chip.textContent = SIGNS[state] + name;
  chip.setAttribute("aria-label", `${name}: ${state === "any" ? "allowed" : state}`);
  return chip;
}

/** The form's wishes as fields of a request for videos. */
export function wishes() {
  const form = new FormData(byId("wishes"));
  const number = (name) => (form.get(name) ? Number(form.get(name)) : null);
  const day = (name) => (form.get(name) ? Date.parse(form.get(name)) : null);
  const list = (name) => form.get(name).split(",").map((text) => text.trim()).filter(Boolean);
  const ofState = (state) => [...chosen].filter(([, each]) => each === state).map(([name]) => name);
  const filter = filled({
    categories: condition(ofState("only"), ofState("never")),
    authors: condition(list("authors_any"), list("authors_none")),
    published_after: day("published_after"),
    published_before: day("published_before"),
  });
  const diversity = filled({
    lambda: Number(form.get("lambda")) < 1 ? Number(form.get("lambda")) : null,
    max_per_author: number("max_per_author"),
    max_per_category: number("max_per_category"),
  });
  return filled({
    k: number("k") ?? 10,
    filter: Object.keys(filter).length ? filter : null,
    diversity: Object.keys(diversity).length ? diversity : null,
    exclude: form.get("seen") ? { seen: false } : null,
  });
}

const condition = (any, none) => (any.length || none.length ? { any_of: any, none_of: none } : null);

const filled = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null));
