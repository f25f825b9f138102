"""The report as one self-contained HTML page, in light and dark."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from analysis.charts import draw_intervals, draw_looks
from analysis.comparison import Comparison
from analysis.report import Report
from analysis.shown_items import ShownItems
from analysis.verdict import in_percent, spread

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #66707d; --line: #d9dee5; --paper: #fff;
  --panel: #f6f8fa; --one: #1f6fb2; --two: #c8511b; --three: #3a8a3a; --four: #8a4fb0;
  --good: #2c7a3d; --bad: #b3261e; --wait: #8a6a00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa5b1; --line: #39424d;
  --paper: #14181d; --panel: #1c2229; --one: #6db3f2; --two: #f29a63; --three: #7cc97c;
  --four: #c99be8; --good: #7cc98c; --bad: #ff8a80; --wait: #e3c25a } }
body { font: 15px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper) }
h1 { margin-bottom: 0 } h2 { margin-top: 2.2rem } .soft { color: var(--soft) }
.verdict { border-left: .4rem solid var(--wait); background: var(--panel); padding: .6rem 1rem;
  margin: 1rem 0 }
.verdict.better { border-color: var(--good) }
.verdict.worse, .verdict.harmful, .verdict.do_not_trust { border-color: var(--bad) }
.verdict b { display: block }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums }
td { white-space: nowrap } td:first-child { white-space: normal }
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left }
th { color: var(--soft); font-weight: 600 }
svg { background: var(--panel); width: 100%; height: auto; font: 12px system-ui, sans-serif }
svg text { fill: var(--ink) } svg .soft { fill: var(--soft) }
svg .grid { stroke: var(--line) } svg .zero { stroke: var(--soft) }
svg .fixed { stroke-width: 6; stroke-linecap: butt }
"""
HEADINGS = {
    "better": "Better",
    "worse": "Worse",
    "harmful": "A guardrail is broken",
    "undecided": "Nothing shown yet",
    "too_early": "Too early",
    "do_not_trust": "Do not trust this experiment",
}


def build_page(report: Report) -> str:
    """Render a report; every name in it is escaped."""
    plan = report.plan
    title = f"Experiment {report.experiment}"
    level = f"{100 * (1 - plan.alpha):g} %"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{_day(report.start_ms)} to {_day(report.end_ms)}, control: '
        f"{escape(report.control)}, decided by: {plan.decide_by.replace('_', '-')} "
        f"{level} intervals</p>",
        *(
            f'<div class="verdict {verdict.decision}"><b>{escape(verdict.arm)}: '
            f"{HEADINGS[verdict.decision]}</b>{escape(verdict.text)}</div>"
            for verdict in report.verdicts
        ),
        "<h2>Arms</h2>",
        _arms_table(report),
        f"<p>Sample ratio: {_ratio_words(report)}.{_left_out(report)}</p>",
        f"<h2>Lift against {escape(report.control)}</h2>",
        draw_intervals(report.outcomes),
        f'<p class="soft">Thick: the fixed-horizon {level} interval, for one look at the planned '
        "size. Thin: the always-valid one, for any number of looks.</p>",
        _outcome_table(report),
        "<h2>As it was known over time</h2>",
        draw_looks(report.looks),
        f'<p class="soft">{escape(report.primary_metric)}; band: always-valid, dashes: '
        "fixed-horizon.</p>",
        "<h2>Guardrails</h2>",
        _guardrail_table(report),
        "<h2>What was shown</h2>",
        _shown_table("videos", report.videos),
        _shown_table("comments", report.comments),
        '<p class="soft">Coverage: different items to expect among as many places as the arm with '
        "the fewest filled. Diversity: as many equally frequent items would be as diverse.</p>",
        "</body></html>",
    ]
    return "\n".join(parts)


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _ratio_words(report: Report) -> str:
    ratio = report.sample_ratio
    state = "<b>off</b>" if ratio.is_off else "as planned"
    return f"{state} (chi-square, p = {ratio.p_value:.3g})"


def _left_out(report: Report) -> str:
    words = ""
    if report.crossed_units:
        words += f" {report.crossed_units:,} units saw more than one arm and are left out."
    if report.unattributed_events:
        words += f" {report.unattributed_events:,} events could not be told to a unit."
    return words


def _arms_table(report: Report) -> str:
    rows = [["arm", "models", "units", "expected", "answers", "latency p99 (ms)"]]
    for arm in report.arms:
        p99 = "–" if arm.latency_p99_ms is None else f"{arm.latency_p99_ms:.1f}"
        expected = f"{report.sample_ratio.expected[arm.arm]:,.0f}"
        sizes = [f"{arm.units:,}", expected, f"{arm.exposures:,}", p99]
        rows.append([arm.arm, ", ".join(arm.model_versions), *sizes])
    return _table(rows)


def _outcome_table(report: Report) -> str:
    rows = [["metric", "arm", "control", "arm's", "lift", "interval", "p", "variance kept"]]
    for one in report.outcomes:
        lift = in_percent(one.lift) if one.lift else "–"
        interval = spread(one.lift, report.plan) if one.lift else "–"
        p = f"{one.p_adjusted:.2g}"
        kept = f"{one.variance_kept:.0%}"
        rows.append([one.title, one.arm, *_means(one), lift, interval, p, kept])
    return _table(rows)


def _guardrail_table(report: Report) -> str:
    rows = [["guardrail", "arm", "control", "arm's", "difference", "interval", "margin", "state"]]
    for one, state in zip(report.guardrails, report.guardrail_states, strict=True):
        low, high = one.difference.interval(report.plan.decide_by)
        difference = f"{one.difference.value:+.3g}"
        bounds = f"{low:+.3g} to {high:+.3g}"
        words = [difference, bounds, f"{state.margin:g}", state.state]
        rows.append([one.title, one.arm, *_means(one), *words])
    return _table(rows)


def _means(one: Comparison) -> list[str]:
    return [
        f"{mean:,.0f}" if abs(mean) >= 1000 else f"{mean:.4g}"
        for mean in (one.control_mean, one.arm_mean)
    ]


def _shown_table(kind: str, shown: dict[str, ShownItems]) -> str:
    if not shown:
        return ""
    rows = [[kind, "arm", "places", "different", "coverage", "diversity"]]
    for arm, items in shown.items():
        sizes = (items.shown, items.distinct, items.coverage, items.diversity)
        rows.append(["", arm, *(f"{size:,.0f}" for size in sizes)])
    return _table(rows)


def _table(rows: Iterable[Sequence[str]]) -> str:
    """An HTML table whose first row is its head."""
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        lines.append("<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>")
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"
