"""What `--help` prints: every flag in full beside what it is for, also where the terminal is narrow."""

import inspect
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

# Flags longer than this break between words. Lines longer than the width are hard to read.
FLAGS_WIDTH = 34
WIDTH = 120
ARGUMENTS, OPTIONS = "Arguments", "Options"


class LibraCommand(TyperCommand):
    """A command whose help has two columns, flags and what they mean, under a heading for each help panel.

    Help texts are plain: square brackets in them are no markup.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the page; ``formatter`` stays empty."""
        console = Console(highlight=False)
        console = Console(width=min(console.width, WIDTH), highlight=False)
        console.print(Text(f"\n{ctx.get_usage()}\n", style="bold"))
        for paragraph in inspect.cleandoc(self.help or "").split("\n\n"):
            console.print(Text(paragraph.replace("\n", " ") + "\n"))
        for heading, records in self._sections(ctx).items():
            console.print(Panel(_definitions(records), title=heading, title_align="left", border_style="dim"))

    def _sections(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """Heading -> flags and help: arguments, what has no heading of its own, then the headings as they occur."""
        sections: dict[str, list[tuple[str, str]]] = {ARGUMENTS: [], OPTIONS: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = ARGUMENTS if parameter.param_type_name == "argument" else OPTIONS
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        return {heading: records for heading, records in sections.items() if records}


def _definitions(records: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(style="cyan", width=min(FLAGS_WIDTH, max(len(flags) for flags, _ in records)))
    table.add_column(ratio=1, overflow="fold")
    for flags, meaning in records:
        text = Text(meaning)
        text.highlight_regex(r"  \[[^]]*\]$", style="dim")
        table.add_row(Text(flags), text)
    return table
