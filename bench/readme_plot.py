"""The plot of README.md: every policy's mean TTFT and peak load over fastlibra's, beside the paper's numbers.

SVG written by hand, so that equal rows give equal text on every machine; one file for light pages and one for dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LEFT, TOP, ROW = 890, 118, 62, 22
PANEL, GAP = 400, 56
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


@dataclass(frozen=True)
class Theme:
    ink: str
    muted: str
    grid: str
    ours: str
    tight: str
    paper: str


LIGHT = Theme("#1f2328", "#59636e", "#d1d9e0", "#0072b2", "#008a62", "#c2410c")
DARK = Theme("#f0f6fc", "#9198a1", "#3d444d", "#56b4e9", "#2fc79a", "#f59e0b")


@dataclass(frozen=True)
class Point:
    """A ratio to fastlibra's and its interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """A policy. ``tight``: in memory that is too small. None where there is no figure."""

    policy: str
    ours: Point | None = None
    tight: Point | None = None
    paper: float | None = None

    def values(self) -> list[float]:
        ends = [end for point in (self.ours, self.tight) if point for end in (point.value, point.low, point.high)]
        return [value for value in (*ends, self.paper) if value is not None]


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from ``ticks[0]`` to ``ticks[-1]``, ``width`` px from ``left``."""

    left: float
    width: float
    ticks: tuple[float, ...]

    def x(self, value: float) -> float:
        low, high = (math.log(end) for end in (self.ticks[0], self.ticks[-1]))
        share = (math.log(value) - low) / (high - low)
        return self.left + self.width * min(1.0, max(0.0, share))


def plot_svg(ttft: Sequence[Line], peak: Sequence[Line], theme: Theme) -> str:
    """Both panels, a row for each policy; one that has no figure for a panel has no mark there."""
    names = list(dict.fromkeys(line.policy for line in (*ttft, *peak)))
    height = TOP + ROW * len(names) + 44
    panels = (
        ("mean TTFT over fastlibra's (left is better)", ttft, LEFT),
        ("peak load over fastlibra's (right is better)", peak, LEFT + PANEL - 60 + GAP),
    )
    parts = [_legend(theme)]
    parts += [_text(LEFT - 10, _y(row) + 4, name, theme.ink, "end") for row, name in enumerate(names)]
    for title, lines, left in panels:
        axis = Axis(left, PANEL - 60, _ticks([value for line in lines for value in line.values()]))
        parts += [_frame(axis, title, len(names), theme)]
        rows = {line.policy: line for line in lines}
        parts += [_marks(axis, _y(row), rows[name], theme) for row, name in enumerate(names) if name in rows]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img">\n{body}\n</svg>\n'
    )


def _ticks(values: Sequence[float]) -> tuple[float, ...]:
    """Those that hold all values, and 1 in any case."""
    low, high = min([*values, 0.9]), max([*values, 1.1])
    first = max((tick for tick in TICKS if tick <= low), default=TICKS[0])
    last = min((tick for tick in TICKS if tick >= high), default=TICKS[-1])
    return tuple(tick for tick in TICKS if first <= tick <= last)


def _y(row: int) -> float:
    return TOP + ROW * (row + 0.5)


def _frame(axis: Axis, title: str, num_rows: int, theme: Theme) -> str:
    bottom = TOP + ROW * num_rows
    parts = [_text(axis.left, TOP - 12, title, theme.ink, "start", bold=True)]
    for tick in axis.ticks:
        x, is_one = axis.x(tick), tick == 1.0
        colour, width = (theme.muted, 1.5) if is_one else (theme.grid, 1)
        parts.append(_stroke(x, TOP, x, bottom, colour, width))
        parts.append(_text(x, bottom + 16, f"{tick:g}x", theme.muted, "middle"))
    return "\n".join(parts)


def _marks(axis: Axis, y: float, line: Line, theme: Theme) -> str:
    parts = []
    if line.paper is not None:
        parts.append(_diamond(axis.x(line.paper), y, theme.paper))
    if line.tight is not None:
        parts += _interval(axis, y + 4, line.tight, theme.tight)
        x = axis.x(line.tight.value)
        parts.append(f'<rect x="{x - 3.5:.1f}" y="{y + 0.5:.1f}" width="7" height="7" fill="{theme.tight}"/>')
    if line.ours is not None:
        at = y - 4 if line.tight is not None else y
        parts += _interval(axis, at, line.ours, theme.ours)
        parts.append(f'<circle cx="{axis.x(line.ours.value):.1f}" cy="{at:.1f}" r="4" fill="{theme.ours}"/>')
    return "\n".join(parts)


def _interval(axis: Axis, y: float, point: Point, colour: str) -> list[str]:
    if point.low is None or point.high is None:
        return []
    return [_stroke(axis.x(point.low), y, axis.x(point.high), y, colour, 2)]


def _legend(theme: Theme) -> str:
    y = 18.0
    return "\n".join(
        (
            f'<circle cx="{LEFT + 5}" cy="{y - 4}" r="4" fill="{theme.ours}"/>',
            _text(LEFT + 15, y, "libra's simulation, 95 % interval", theme.ink, "start"),
            f'<rect x="{LEFT + 231.5}" y="{y - 7.5}" width="7" height="7" fill="{theme.tight}"/>',
            _text(LEFT + 245, y, "the same in tight memory", theme.ink, "start"),
            _diamond(LEFT + 435, y - 4, theme.paper),
            _text(LEFT + 446, y, "the paper (HPCA 2026)", theme.ink, "start"),
        )
    )


def _diamond(x: float, y: float, colour: str) -> str:
    points = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y:.1f} {x:.1f},{y + 6:.1f} {x - 6:.1f},{y:.1f}"
    return f'<polygon points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _stroke(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width:g}"/>'


def _text(x: float, y: float, text: str, colour: str, anchor: str, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
