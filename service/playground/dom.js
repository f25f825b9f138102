// Builds elements. Text always goes in as text, so that no title or comment can become markup.

export const byId = (id) => document.getElementById(id);

/** An element with properties, and with children that are elements or text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A button that can't be pressed again while what it does goes on. */
export function button(label, action, properties = {}) {
  const element = make("button", { type: "button", ...properties }, label);
  element.addEventListener("click", async () => {
    element.setAttribute("aria-busy", "true"); // not `disabled`: that would lose the focus
    try {
      await action();
    } finally {
      element.removeAttribute("aria-busy");
    }
  });
  element.addEventListener(
    "click",
    (event) => element.getAttribute("aria-busy") && event.stopImmediatePropagation(),
    { capture: true },
  );
  return element;
}

/** Replace a list's entries; those with a `data-id` glide there, and the focus stays where it was. */
export function refill(list, entries) {
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.focus : "";
  const before = new Map(
    Array.from(list.children, (entry) => [entry.dataset.id, entry.getBoundingClientRect().top]),
  );
  list.replaceChildren(...entries);
  glide(list, before);
  if (!focused) return;
  const again = list.querySelector(`[data-focus="${CSS.escape(focused)}"]`);
  (again ?? list.querySelector("button"))?.focus({ preventScroll: true });
}

function glide(list, before) {
  if (!before.size || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const entry of list.children) {
    if (!entry.dataset.id) continue;
    const top = before.get(entry.dataset.id);
    const from =
      top === undefined
        ? { opacity: 0, transform: "scale(.97)" }
        : { transform: `translateY(${top - entry.getBoundingClientRect().top}px)` };
    entry.animate([from, {}], { duration: 380, easing: "ease-out" });
  }
}

/** Show a failure to everybody, screen readers included; null hides it. */
export function showProblem(error) {
  const box = byId("problem");
  box.hidden = error === null;
  box.textContent = error === null ? "" : error.message;
}

/** Do something for the user; what fails is shown instead of thrown. */
export async function attempt(action) {
  try {
    const result = await action();
    showProblem(null);
    return result;
  } catch (error) {
    showProblem(error);
    return undefined;
  }
}
