"""The figures on a terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.reproduce.figure import Figure
from bench.reproduce.readme import interval_text, value_text
from bench.reproduce.rows import FigureRow
from bench.reproduce.rules import DEVICE, Scale

_STYLES = {"yes": "green", "no": "bold red", "none": "red", "unclear": "yellow"}


def figures_table(rows: Sequence[FigureRow], figures: Sequence[Figure], scale: Scale, partial: bool) -> RenderableType:
    """One table per figure. Where the paper gives numbers, only the rows beside one are shown: figures.csv has all."""
    parts: list[RenderableType] = []
    for figure in figures:
        own = [row for row in rows if row.figure == figure.number]
        shown = [row for row in own if row.paper is not None or row.same_sign] or own
        if shown:
            parts += [Text(), Text(f"{figure.number}  {figure.title}", style="bold"), _table(shown)]
    state = "PARTIAL: the run was interrupted. " if partial else ""
    caption = (
        f"{state}{scale.name}: simulated on {DEVICE} from datasheet rates, {scale.requests} requests a run, "
        f"{scale.seeds} seeds, 95 % intervals. All rows and notes are in figures.csv."
    )
    return Group(*parts, Text(), Text(caption, style="dim"))


def _table(rows: Sequence[FigureRow]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("case", "metric"):
        table.add_column(heading)
    for heading in ("ours", "95 % interval", "paper"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("same sign")
    for row in rows:
        verdict = Text(row.same_sign, style=_STYLES.get(row.same_sign, ""))
        table.add_row(
            row.case, row.metric, value_text(row, row.ours), interval_text(row), value_text(row, row.paper), verdict
        )
    return table
