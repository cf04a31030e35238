"""The doctor's checks as one table."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from bench.doctor import Check, Status

_MARKS = {Status.OK: ("✓", "bold green"), Status.OPTIONAL: ("–", "yellow"), Status.FAULT: ("✗", "bold red")}
_LEGEND = "✓ works · – not here, and only some commands need it · ✗ must be mended"


def doctor_table(checks: Sequence[Check]) -> Table:
    """Checks under their sections; the first of each section names it."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption=_LEGEND, caption_justify="left")
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("")
    table.add_column("found", overflow="fold")
    section = ""
    for check in checks:
        mark, style = _MARKS[check.status]
        shown = "" if check.section == section else check.section
        section = check.section
        table.add_row(shown, check.name, Text(mark, style=style), Text(check.detail))
    return table
