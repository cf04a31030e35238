"""What a comparison table says and how it fits: lines of cells, and the richest layout a width has room for."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.format import MISSING, compact, count, half_width, times, with_interval
from bench.metrics import PolicySummary
from bench.table_rows import GROUPS, Better, Row

SATURATED = "SATURATED"


@dataclass(frozen=True)
class Layout:
    """How much a table shows. ``joiner`` stands between a figure and a word about it, ``gap`` between columns."""

    intervals: bool
    all_rows: bool
    joiner: str
    gap: int


_LAYOUTS = (
    Layout(intervals=True, all_rows=True, joiner=" ", gap=3),
    Layout(intervals=True, all_rows=True, joiner="\n", gap=2),
    Layout(intervals=False, all_rows=True, joiner="\n", gap=2),
    Layout(intervals=False, all_rows=False, joiner="\n", gap=1),
)


@dataclass(frozen=True)
class Line:
    """A table row before it is drawn. ``cells`` is empty for a heading; ``best`` holds the columns to mark."""

    label: str
    unit: str = ""
    cells: tuple[str, ...] = ()
    best: frozenset[int] = frozenset()

    @property
    def is_metric(self) -> bool:
        """Indented under a heading; headings and the state line are not."""
        return self.label.startswith(" ")


@dataclass(frozen=True)
class Page:
    """A laid-out table: ``chunks`` are the columns that stand side by side, one chunk per table to draw."""

    layout: Layout
    names: list[str]
    lines: list[Line]
    chunks: list[list[int]]


def lay_out(ordered: Sequence[PolicySummary], reference: PolicySummary, reference_name: str, width: int) -> Page:
    """The first layout in which all policies fit side by side; the tightest one, in several chunks, when none does.

    The ratio row divides by ``reference`` and calls it ``reference_name``.
    """
    for layout in _LAYOUTS:
        lines = _lines(ordered, reference, reference_name, layout)
        names = [_header(summary.policy, layout) for summary in ordered]
        chunks = _chunks(lines, names, layout, width)
        if len(chunks) == 1:
            break
    return Page(layout, names, lines, chunks)


def ttft_ratio(summary: PolicySummary, reference: PolicySummary) -> float | None:
    """Mean TTFT over the reference's; None where either has none."""
    ttft, reference_ttft = summary.mean("mean_ttft_ms"), reference.mean("mean_ttft_ms")
    return ttft / reference_ttft if ttft is not None and reference_ttft else None


def _lines(
    ordered: Sequence[PolicySummary], reference: PolicySummary, reference_name: str, layout: Layout
) -> list[Line]:
    lines: list[Line] = []
    for group in GROUPS:
        rows = [row for row in group.rows if _is_shown(row, ordered, layout)]
        if rows:
            lines.append(Line(group.title))
        for row in rows:
            lines.append(_metric_line(row, ordered, layout))
            if row.headline and not layout.intervals:
                lines += _half_width_line(row, ordered)
            if row.metric == "mean_ttft_ms" and len(ordered) > 1:
                lines.append(_ratio_line(ordered, reference, reference_name, layout))
    return [*lines, Line("state", cells=tuple(_state(summary, layout) for summary in ordered))]


def _is_shown(row: Row, ordered: Sequence[PolicySummary], layout: Layout) -> bool:
    means = [row.estimate(summary).mean for summary in ordered]
    if not (layout.all_rows or row.essential) or all(mean is None for mean in means):
        return False
    return any(means) or not row.hide_zero


def _metric_line(row: Row, ordered: Sequence[PolicySummary], layout: Layout) -> Line:
    figures = [row.estimate(summary) for summary in ordered]
    means = [count(figure.mean) if row.is_count else compact(figure.mean) for figure in figures]
    best = _best(row, ordered, means)
    if layout.intervals and not row.is_count:
        means = [with_interval(figure.mean, figure.half_width) for figure in figures]
    return Line(f"  {row.label}", row.unit, tuple(means), best)


def _best(row: Row, ordered: Sequence[PolicySummary], texts: Sequence[str]) -> frozenset[int]:
    """The columns to mark. A saturated policy is the best of nothing where another is stable: its figures are of a
    state that does not last."""
    is_rival = [not summary.saturated or all(other.saturated for other in ordered) for summary in ordered]
    means = [row.estimate(summary).mean for summary in ordered]
    known = [mean for mean, counts in zip(means, is_rival, strict=True) if counts and mean is not None]
    if not known or row.better is Better.NEITHER:
        return frozenset()
    target = (count if row.is_count else compact)(min(known) if row.better is Better.LOWER else max(known))
    # Figures that read the same share the mark: a difference the table does not show is none to the reader.
    # What most policies reach is no distinction and gets no mark.
    reached = [column for column, text in enumerate(texts) if text == target]
    return frozenset(column for column in reached if is_rival[column] and 2 * len(reached) <= len(ordered))


def _half_width_line(row: Row, ordered: Sequence[PolicySummary]) -> list[Line]:
    """The interval of a headline figure on a line of its own, where cells are too narrow to hold it."""
    figures = [row.estimate(summary) for summary in ordered]
    if all(figure.half_width is None for figure in figures):
        return []
    cells = tuple(
        MISSING if figure.mean is None or figure.half_width is None else half_width(figure.mean, figure.half_width)
        for figure in figures
    )
    return [Line("    95 % interval", row.unit, cells)]


def _ratio_line(
    ordered: Sequence[PolicySummary], reference: PolicySummary, reference_name: str, layout: Layout
) -> Line:
    """TTFT over the reference's; a ratio of a stable to a saturated run says so, for it grows with the run's length."""
    cells = []
    for summary in ordered:
        quotient = ttft_ratio(summary, reference)
        cell = MISSING if quotient is None else times(quotient)
        if quotient is not None and summary.saturated != reference.saturated:
            cell += f"{layout.joiner}{SATURATED}"
        cells.append(cell)
    return Line(f"    vs {reference_name}", cells=tuple(cells))


def _state(summary: PolicySummary, layout: Layout) -> str:
    if not summary.saturated:
        return "stable"
    if len(summary.saturated_seeds) == len(summary.seeds):
        return SATURATED
    return f"{SATURATED}{layout.joiner}{len(summary.saturated_seeds)}/{len(summary.seeds)} seeds"


def _header(policy: str, layout: Layout) -> str:
    return policy.replace("-", "-\n") if layout.joiner == "\n" and len(policy) > len(SATURATED) else policy


def _text_width(text: str) -> int:
    return max(map(len, text.split("\n")))


def _column_width(lines: Sequence[Line], names: Sequence[str], column: int) -> int:
    cells = [line.cells[column] + " " * (column in line.best) for line in lines if line.cells]
    return max(_text_width(text) for text in [names[column], *cells])


def _label(line: Line) -> str:
    return f"{line.label} {line.unit}".rstrip()


def _chunks(lines: Sequence[Line], names: Sequence[str], layout: Layout, width: int) -> list[list[int]]:
    """Columns that fit side by side in ``width``, in order; a column too wide for any table gets one of its own."""
    label_width = max(len(_label(line)) for line in lines)
    chunks: list[list[int]] = []
    room = 0
    for column in range(len(names)):
        needed = _column_width(lines, names, column) + layout.gap
        if not chunks or needed > room:
            chunks.append([])
            room = width - label_width
        chunks[-1].append(column)
        room -= needed
    return chunks
