"""The figures on a terminal: one table per figure, its rows under the case they are of."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import wrap

from rich.console import Group, RenderableType
from rich.text import Text

from bench.format import compact
from bench.reproduce.figure import Figure
from bench.reproduce.readme import interval_text, value_text
from bench.reproduce.rows import NEUTRAL, FigureRow
from bench.reproduce.rules import DEVICE, Scale

_STYLES = {"yes": "green", "no": "bold red", "none": "red", "unclear": "yellow"}
_HEADINGS = ("ours", "95 % interval", "paper", "same sign")
_VERDICT = _HEADINGS.index("same sign")
_INDENT = "  "
# Between columns.
_GAP = 2
# A metric is wrapped into so many columns at the least; a terminal that has no room for them wraps the line.
_LEAST_METRIC = 20


def figures_table(
    rows: Sequence[FigureRow], figures: Sequence[Figure], scale: Scale, partial: bool, width: int
) -> RenderableType:
    """One table per figure, ``width`` columns wide at most. Where the paper gives numbers, only the rows beside one are
    shown: figures.csv has all."""
    parts: list[RenderableType] = []
    for figure in figures:
        own = [row for row in rows if row.figure == figure.number]
        shown = [row for row in own if row.paper is not None or row.same_sign] or own
        if shown:
            parts += [Text(), Text(f"{figure.number}  {figure.title}", style="bold"), *_table(shown, width)]
    state = "PARTIAL: the run was interrupted. " if partial else ""
    caption = (
        f"{state}{scale.name}: simulated on {DEVICE} from datasheet rates, {scale.requests} requests a run, "
        f"{scale.seeds} seeds, 95 % intervals. All rows and notes are in figures.csv."
    )
    return Group(*parts, Text(), Text(caption, style="dim"))


def _table(rows: Sequence[FigureRow], width: int) -> Iterator[Text]:
    """The lines: columns that no row fills are left out, metrics wrap."""
    cells = [_cells(row) for row in rows]
    used = [column for column in range(len(_HEADINGS)) if any(line[column] for line in cells)]
    widths = {column: max(len(line[column]) for line in (_HEADINGS, *cells)) for column in used}
    room = max(width - sum(widths.values()) - _GAP * len(used), _LEAST_METRIC)
    metrics = [wrap(_metric(row), room, initial_indent=_INDENT, subsequent_indent=_INDENT * 2) for row in rows]
    label_width = max(len(line) for lines in metrics for line in lines)
    yield _line("", _HEADINGS, widths, label_width, "cyan")
    numbered = zip(rows, cells, metrics, strict=True)
    for case, group in groupby(numbered, key=lambda entry: entry[0].case):
        yield Text(case, style="bold")
        for row, line, (first, *others) in group:
            yield _line(first, line, widths, label_width, _STYLES.get(row.same_sign, ""))
            yield from map(Text, others)
            remark = _remark(row)
            if remark and len(remark) <= width - len(_INDENT * 2):
                yield Text(f"{_INDENT * 2}{remark}", style="dim")


def _line(label: str, cells: Sequence[str], widths: dict[int, int], label_width: int, style: str) -> Text:
    """One line; ``style`` is that of the verdict, which stands to the left, and of headings."""
    text = Text(label.ljust(label_width))
    for column, width in widths.items():
        is_verdict = column == _VERDICT
        cell = cells[column].ljust(width) if is_verdict else cells[column].rjust(width)
        text.append(" " * _GAP)
        text.append(cell, style=style if is_verdict or cells is _HEADINGS else "")
    text.rstrip()
    return text


def _cells(row: FigureRow) -> tuple[str, ...]:
    """In the order of the headings; empty where there is nothing to say."""
    interval = "" if row.low is None or row.high is None else interval_text(row)
    paper = "" if row.paper is None else _value(row, row.paper)
    return _value(row, row.ours), interval, paper, row.same_sign


def _value(row: FigureRow, value: float | None) -> str:
    return value_text(row, value) if row.unit in NEUTRAL else compact(value)


def _metric(row: FigureRow) -> str:
    """With the unit of a level, so that cells are numbers."""
    return row.metric if row.unit in NEUTRAL else f"{row.metric} [{row.unit}]"


def _remark(row: FigureRow) -> str:
    """What a note says first; the breakdown that often follows it is too long for a terminal."""
    return row.note.partition("; ")[0]
