"""README.md of a reproduction, made from its rows and its meta.json and nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.format import MISSING, compact
from bench.reproduce.controls import carriers
from bench.reproduce.figure import Figure
from bench.reproduce.rows import FigureRow
from bench.reproduce.rules import GAIN, rules_text

_HEADINGS = ("case", "metric", "ours", "95 % interval", "paper", "same sign", "note")
_PAPER = _HEADINGS.index("paper")
_VERDICTS = (
    ("no", "Opposite sign"),
    ("none", "No difference: the interval lies within half a per cent"),
    ("unclear", "Too close to call: the interval covers no difference"),
)
_ALIGNMENT = ("---", "---", "---:", "---:", "---:", "---", "---")


def readme_text(rows: Sequence[FigureRow], figures: Sequence[Figure], meta: Mapping[str, Any]) -> str:
    """The whole file."""
    parts = [_head(figures, meta), _differences(rows), _mechanisms(rows)]
    for figure in figures:
        own = [row for row in rows if row.figure == figure.number]
        if own:
            parts.append(f"## {_title(figure)}\n\nThe paper: {figure.says}.\n\n{_table(own)}")
    parts.append(rules_text(meta["scale"]["name"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def value_text(row: FigureRow, value: float | None) -> str:
    """``-45.7 %``, ``1.51x``, ``19.5 ms``."""
    if value is None:
        return MISSING
    if row.unit == "x":
        return f"{value:.2f}x" if value < 100 else f"{compact(value)}x"
    return f"{value:+.1f} %" if row.unit == "%" else f"{compact(value)} {row.unit}"


def interval_text(row: FigureRow) -> str:
    """``-50.1 to -41.0``, in the row's unit; a dash with fewer than two seeds."""
    if row.low is None or row.high is None:
        return MISSING
    if row.unit == "%":
        return f"{row.low:+.1f} to {row.high:+.1f}"
    if row.unit == "x":
        return f"{row.low:.2f} to {row.high:.2f}"
    return f"{compact(row.low)} to {compact(row.high)}"


def _head(figures: Sequence[Figure], meta: Mapping[str, Any]) -> str:
    state = " **PARTIAL: the run was interrupted.**" if meta["partial"] else ""
    scale = meta["scale"]
    of_paper = scale["name"] != GAIN.name
    source = "Numbers of the paper: arXiv 2505.03756 as published at HPCA 2026. " if of_paper else ""
    title = figures[0].title if len(figures) == 1 else "The paper's evaluation on libra"
    return (
        f"# {title}: {scale['name']}\n\n"
        f"`{meta['command']}`: {meta['num_cells']} cells, {meta['cpu_s']:.0f} s of CPU time.{state} Simulated on "
        f"{meta['device']} from datasheet rates; {scale['requests']} requests a run or more, the first fifth left out, "
        f"{scale['seeds']} seeds a run and {scale['peak_seeds']} a peak; intervals are 95 % Student t over seeds. "
        f"Every table is made from figures.csv (`libra reproduce --check DIR` says whether it still is). {source}"
        "Ratios over several settings are geometric means over those where both policies are stable; SATURATED marks "
        "the others, whose mean TTFT grows with the run's length."
    )


def _differences(rows: Sequence[FigureRow]) -> str:
    """What did not reproduce comes first."""
    judged = [row for row in rows if row.same_sign]
    if not judged:
        return ""
    texts = ["## What did not reproduce"]
    for verdict, words in _VERDICTS:
        own = [row for row in judged if row.same_sign == verdict]
        if own:
            texts.append(f"{words}:\n\n" + "\n".join(f"* {_sentence(row)}" for row in own))
    agree = sum(row.same_sign == "yes" for row in judged)
    texts.append(f"{agree} of {len(judged)} numbers that the paper gives have its sign; the sizes are in the tables.")
    return "\n\n".join(texts)


def _sentence(row: FigureRow) -> str:
    paper = "" if row.paper is None else f", paper {value_text(row, row.paper)}"
    note = f" ({row.note})" if row.note else ""
    place = f"{figure_name(row.figure)}, {row.case}"
    interval = "" if row.low is None else f" [{interval_text(row)}]"
    return f"{place}: {row.metric} {value_text(row, row.ours)}{interval}{paper}{note}"


def _mechanisms(rows: Sequence[FigureRow]) -> str:
    found = carriers(rows)
    if not found:
        return ""
    lines = "\n".join(f"* {text}" for text in found)
    return (
        "## Which mechanism carries the gain\n\nFrom vLLM to fastlibra one mechanism at a time: mean TTFT over that of "
        f"the step before, the largest gain first.\n\n{lines}"
    )


def figure_name(number: str) -> str:
    """``Fig. 15``, ``overheads``."""
    return f"Fig. {number}" if number[0].isdigit() else number


def _title(figure: Figure) -> str:
    return f"Fig. {figure.number}: {figure.title}" if figure.number[0].isdigit() else figure.title


def _table(rows: Sequence[FigureRow]) -> str:
    """Without the columns of the paper where it has nothing to stand beside."""
    judged = any(row.paper is not None or row.same_sign for row in rows)
    lines = [_HEADINGS, _ALIGNMENT, *(_cells(row) for row in rows)]
    return "\n".join(_line(cells if judged else (*cells[:_PAPER], cells[-1])) for cells in lines)


def _cells(row: FigureRow) -> tuple[str, ...]:
    """In the order of the headings."""
    ours, paper = value_text(row, row.ours), value_text(row, row.paper)
    return row.case, row.metric, ours, interval_text(row), paper, row.same_sign, row.note


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
