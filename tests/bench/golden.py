"""Golden texts of tables. `python -m tests.bench.golden` writes them anew: look at the difference before committing."""

import io
from pathlib import Path

from rich.console import Console, RenderableType

from bench.table import comparison_table
from tests.bench.fabricate import CONDITIONS, hand_made_summaries

GOLDEN = Path(__file__).parent / "golden"
WIDTHS = (80, 120)


def render(renderable: RenderableType, width: int, color: bool = False) -> str:
    """What a console of ``width`` prints, without trailing blanks."""
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system="standard" if color else None,
        force_terminal=color,
        legacy_windows=False,
        _environ={},
    )
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def comparison_text(width: int) -> str:
    """The comparison of six hand-made policies against vllm."""
    return render(comparison_table(hand_made_summaries(), CONDITIONS, width=width, baseline="vllm"), width)


def golden_path(width: int) -> Path:
    """Where the golden text of a width is kept."""
    return GOLDEN / f"comparison_{width}.txt"


def main() -> None:
    """Writes all golden texts."""
    for width in WIDTHS:
        golden_path(width).write_text(comparison_text(width), encoding="utf-8")


if __name__ == "__main__":
    main()
