"""The page's two charts as SVG: intervals by metric, and the primary metric over time."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from math import ceil, floor, log10

from analysis.comparison import Comparison, Estimate
from analysis.report import Look

COLOURS = ("var(--one)", "var(--two)", "var(--three)", "var(--four)")
WIDTH, LABELS, ROW, MARGIN = 900, 330, 30, 30
TALL, LEFT = 280, 60


def draw_intervals(outcomes: Sequence[Comparison]) -> str:
    """A line per comparison: both intervals of its lift, around zero."""
    rows = [(one, one.lift) for one in outcomes if one.lift]
    if not rows:
        return "<p>No lift to show: a mean is zero.</p>"
    most = _scale_end([lift for _, lift in rows])
    low = max(-most, min(0.0, *(lift.always_valid[0] for _, lift in rows)))
    high = min(most, max(0.0, *(lift.always_valid[1] for _, lift in rows)))
    height = MARGIN + ROW * len(rows) + 10
    arms = list(dict.fromkeys(one.arm for one, _ in rows))

    def x(lift: float) -> float:
        inside = max(low, min(high, lift))
        return LABELS + (inside - low) / ((high - low) or 1) * (WIDTH - LABELS - MARGIN)

    shapes = []
    for tick in _ticks(low, high):
        kind = "grid" if tick else "zero"
        shapes.append(_line(x(tick), 22, x(tick), height - 8, f'class="{kind}"'))
        shapes.append(_text(x(tick), 16, f"{100 * tick:+.3g} %", "middle", "soft"))
    for number, (one, lift) in enumerate(rows):
        y = MARGIN + ROW * number + ROW / 2
        stroke = f'stroke="{_colour(arms.index(one.arm))}"'
        shapes.append(_text(8, y + 4, f"{one.title} · {one.arm}"))
        (a, b), (c, d) = lift.always_valid, lift.fixed_horizon
        shapes.append(_line(x(a), y, x(b), y, stroke))
        shapes.append(_line(x(c), y, x(d), y, f'{stroke} class="fixed" opacity=".55"'))
        shapes.append(f'<circle cx="{x(lift.value):.1f}" cy="{y}" r="4" fill="{stroke[8:-1]}"/>')
    return _svg(height, shapes, "Lift by metric with intervals")


def draw_looks(looks: Sequence[Look]) -> str:
    """Each arm's lift over time, with a band for the always-valid interval."""
    if len({look.until_ms for look in looks}) < 2:
        return "<p>Not enough units for a curve yet.</p>"
    first, last = looks[0].until_ms, looks[-1].until_ms
    most = _scale_end([look.lift for look in looks])
    arms = list(dict.fromkeys(look.arm for look in looks))

    def x(time_ms: int) -> float:
        return LEFT + (time_ms - first) / (last - first) * (WIDTH - LEFT - MARGIN)

    def y(lift: float) -> float:
        return TALL / 2 - max(-1.0, min(1.0, lift / most)) * (TALL / 2 - MARGIN)

    shapes = []
    for tick in _ticks(-most, most):
        kind = "grid" if tick else "zero"
        shapes.append(_line(LEFT, y(tick), WIDTH - MARGIN, y(tick), f'class="{kind}"'))
        shapes.append(_text(LEFT - 6, y(tick) + 4, f"{100 * tick:+.3g} %", "end", "soft"))
    for number, arm in enumerate(arms):
        colour, own = _colour(number), [look for look in looks if look.arm == arm]
        lows = [(x(look.until_ms), y(look.lift.always_valid[0])) for look in own]
        highs = [(x(look.until_ms), y(look.lift.always_valid[1])) for look in own]
        band = _points([*lows, *reversed(highs)])
        shapes.append(f'<polygon points="{band}" fill="{colour}" opacity=".18"/>')
        for side in (0, 1):
            edge = _points((x(look.until_ms), y(look.lift.fixed_horizon[side])) for look in own)
            dashes = f'fill="none" stroke="{colour}" stroke-dasharray="4 4"'
            shapes.append(f'<polyline points="{edge}" {dashes}/>')
        middle = _points((x(look.until_ms), y(look.lift.value)) for look in own)
        line = f'fill="none" stroke="{colour}" stroke-width="2"'
        shapes.append(f'<polyline points="{middle}" {line}/>')
        shapes.append(_text(LEFT + 8 + 160 * number, 18, f"● {arm}", colour=colour))
    for time_ms, anchor in ((first, "start"), (last, "end")):
        moment = datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        shapes.append(_text(x(time_ms), TALL - 8, moment, anchor, "soft"))
    return _svg(TALL, shapes, "The primary metric's lift over time")


def _scale_end(lifts: Sequence[Estimate]) -> float:
    """Where a scale ends: few units' intervals, which would flatten all others, are cut off."""
    ends = sorted(abs(end) for lift in lifts for end in lift.always_valid)
    median = ends[len(ends) // 2]
    return min(max(2 * median, *(abs(lift.value) for lift in lifts)), 5 * median) or 1.0


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, zero among them, five or so."""
    fifth = (high - low) / 5 or 0.2
    size = 10.0 ** floor(log10(fifth))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= fifth)
    return [number * step for number in range(ceil(low / step), floor(high / step) + 1)]


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _points(pairs: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def _line(x1: float, y1: float, x2: float, y2: float, looks: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {looks}/>'


def _text(
    x: float, y: float, words: str, anchor: str = "start", kind: str = "", colour: str = ""
) -> str:
    style = f' style="fill:{colour}"' if colour else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}"{style}'
    return f"<text {place}>{escape(words)}</text>"


def _svg(height: float, shapes: Sequence[str], label: str) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:g}"'
    return f'<svg {size} role="img" aria-label="{escape(label)}">{"".join(shapes)}</svg>'
