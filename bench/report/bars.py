"""Level bars in rows, each under its name, so that names may be long and a phone's width is enough."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.colours import colour
from bench.report.figure import SERIES, bare_axes, printable, to_svg

CUT_MARK = "▸ "
_ROW, _BAR_TOP, _BAR = 36.0, 19.0, 10.0  # px
_BASELINE = 13.0


@dataclass(frozen=True)
class BarRow:
    """``pieces`` are (role, length) from left to right; ``low`` and ``high`` the ends of an interval around the sum of
    them or of the first piece."""

    name: str
    pieces: tuple[tuple[str, float], ...]
    label: str
    low: float | None = None
    high: float | None = None


def bar_chart(rows: Sequence[BarRow], full: float, title: str, description: str) -> str:
    """One bar per row on a track that stands for ``full`` > 0; what is longer is cut at the end of its track."""
    figure, axes = bare_axes(height=_ROW * len(rows))
    width = axes.get_xlim()[1]
    for index, row in enumerate(rows):
        top, left = _ROW * index + _BAR_TOP, 0.0
        axes.text(0, _ROW * index + _BASELINE, printable(row.name), color=colour("ink"))
        axes.text(width, _ROW * index + _BASELINE, row.label, color=colour("ink"), ha="right", weight="bold")
        axes.barh(top, width, _BAR, align="edge", color=colour("track"), lw=0)
        for role, length in row.pieces:
            shown = min(width * length / full, width - left)
            if shown > 0:
                (bar,) = axes.barh(top, shown, _BAR, left, align="edge", color=colour(role), lw=0)
                bar.set_gid(f"{SERIES}{role.replace('-', ' ')}")
            left += max(shown, 0.0)
        if row.low is not None and row.high is not None and row.low < row.high:
            low, high = (width * min(max(end, 0.0), full) / full for end in (row.low, row.high))
            axes.plot([low, high], [top + _BAR / 2] * 2, color=colour("ink"), lw=1.2)
    return to_svg(figure, title, description)
