// An experiment's report: verdicts, arms, and two plots with their figures.

import { make } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const HEADINGS = {
  better: "Better",
  worse: "Worse",
  harmful: "A guardrail is broken",
  undecided: "Nothing shown yet",
  too_early: "Too early",
  do_not_trust: "Do not trust this experiment",
};
const WIDTH = 860;
const LABELS = 360;
const ROW = 26;
const TALL = 200;

/** Fill a box with a report as `analysis` computes it. */
export function drawReport(box, report) {
  const ratio = report.sample_ratio;
  box.replaceChildren(
    ...report.verdicts.map((verdict) =>
      make(
        "div",
        { className: `verdict ${verdict.decision}` },
        make("strong", {}, `${verdict.arm}: ${HEADINGS[verdict.decision] ?? verdict.decision}`),
        make("p", {}, verdict.text),
      ),
    ),
    table(
      ["Arm", "Units", "Answers", "Models", "p99"],
      report.arms.map((arm) => [
        arm.arm,
        arm.units.toLocaleString(),
        arm.exposures.toLocaleString(),
        arm.model_versions.join(", "),
        arm.latency_p99_ms === null ? "–" : `${arm.latency_p99_ms.toFixed(1)} ms`,
      ]),
    ),
    make("p", { className: ratio.is_off ? "bad" : "note" }, `Sample ratio ${ratio.is_off ? "off" : "as planned"} (p = ${ratio.p_value.toPrecision(3)}).`),
    ...intervals(report),
    ...curve(report),
    ...guardrails(report),
  );
}

/** Each metric's lift with both its intervals. */
function intervals({ outcomes, control, arms }) {
  const rows = outcomes.filter(({ lift }) => lift);
  if (!rows.length) return [];
  const ends = rows.flatMap(({ lift }) => lift.always_valid);
  const most = sensible(ends, rows.map(({ lift }) => lift.value));
  const [low, high] = [Math.max(-most, Math.min(0, ...ends)), Math.min(most, Math.max(0, ...ends))];
  const inside = (lift) => Math.min(high, Math.max(low, lift));
  const x = (lift) => LABELS + ((inside(lift) - low) / (high - low || 1)) * (WIDTH - LABELS - 40);
  const bottom = ROW * rows.length + 4;
  const shapes = [line(x(0), 4, x(0), bottom, "zero")];
  for (const end of new Set([low, 0, high])) shapes.push(text(x(end), bottom + 14, signed(end), "middle"));
  rows.forEach(({ title, arm, lift }, number) => {
    const y = ROW * number + ROW / 2 + 4;
    const colour = `arm-${armNumber(outcomes, arm)}`;
    shapes.push(
      text(4, y + 4, arms.length > 2 ? `${title} · ${arm}` : title),
      line(x(lift.always_valid[0]), y, x(lift.always_valid[1]), y, colour),
      line(x(lift.fixed_horizon[0]), y, x(lift.fixed_horizon[1]), y, `${colour} thick`),
      shape("circle", { cx: x(lift.value), cy: y, r: 4, class: colour }),
    );
  });
  const words = rows.map(({ title, arm, lift, p_adjusted: p }) =>
    [title, arm, signed(lift.value), `${signed(lift.always_valid[0])} to ${signed(lift.always_valid[1])}`, p.toPrecision(2)]);
  return [
    make("h5", {}, `Lift against ${control}`),
    picture(bottom + 22, shapes, `Lift of each metric against ${control}; the table below has the figures`),
    make("details", {}, make("summary", {}, "Figures"), table(["Metric", "Arm", "Lift", "Always-valid interval", "p"], words)),
  ];
}

/** The primary metric's lift as it was known over time. */
function curve({ looks, primary_metric: metric, outcomes }) {
  const arms = [...new Set(looks.map(({ arm }) => arm))];
  const times = looks.map(({ until_ms: time }) => time);
  const [first, last] = [Math.min(...times), Math.max(...times)];
  if (looks.length < 2 || first === last) return [];
  const most = sensible(looks.flatMap(({ lift }) => lift.always_valid), looks.map(({ lift }) => lift.value));
  const x = (time) => 60 + ((time - first) / (last - first)) * (WIDTH - 80);
  const y = (lift) => TALL / 2 - Math.max(-1, Math.min(1, lift / most)) * (TALL / 2 - 14);
  const shapes = [line(60, y(0), WIDTH - 20, y(0), "zero")];
  for (const at of [most, 0, -most]) shapes.push(text(4, y(at) + 4, signed(at)));
  for (const arm of arms) {
    const own = looks.filter((look) => look.arm === arm);
    const points = (pick) => own.map((look) => `${x(look.until_ms).toFixed(1)},${y(pick(look.lift)).toFixed(1)}`);
    const band = [...points((lift) => lift.always_valid[1]), ...points((lift) => lift.always_valid[0]).reverse()];
    const colour = `arm-${armNumber(outcomes, arm)}`;
    shapes.push(
      shape("polygon", { points: band.join(" "), class: `${colour} band` }),
      shape("polyline", { points: points((lift) => lift.value).join(" "), class: `${colour} curve` }),
    );
  }
  return [
    make("h5", {}, `${metric} as it was known over time`),
    picture(TALL, shapes, `Lift of ${metric} over time with its always-valid band`),
  ];
}

/** A scale's end: intervals of a few units are so wide that all else would be a point; they are cut off. */
function sensible(ends, values) {
  const sizes = (numbers) => numbers.map(Math.abs).sort((a, b) => a - b);
  const median = sizes(ends)[Math.floor(ends.length / 2)];
  return Math.min(Math.max(2 * median, sizes(values).at(-1)), 5 * median) || 1;
}

function guardrails({ guardrails: rows, guardrail_states: states }) {
  if (!rows.length) return [];
  const words = rows.map((one, number) => [
    one.title,
    one.arm,
    one.difference.value.toPrecision(3),
    String(states[number].margin),
    states[number].state,
  ]);
  return [make("h5", {}, "Guardrails"), table(["Guardrail", "Arm", "Difference", "Margin", "State"], words)];
}

const armNumber = (outcomes, arm) => 1 + ([...new Set(outcomes.map((one) => one.arm))].indexOf(arm) % 3);

const signed = (lift) => (lift === 0 ? "0" : `${lift > 0 ? "+" : ""}${(100 * lift).toFixed(1)} %`);

export function table(heads, rows) {
  return make(
    "div",
    { className: "scroll" },
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell))))),
    ),
  );
}

function picture(height, shapes, label) {
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label });
  svg.append(...shapes);
  return svg;
}

const line = (x1, y1, x2, y2, name) => shape("line", { x1, y1, x2, y2, class: name });

function text(x, y, words, anchor = "start") {
  const element = shape("text", { x, y, "text-anchor": anchor });
  element.textContent = words;
  return element;
}

function shape(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
