"""Rewrites what README.md, results/LOG.md and results/*/README.md say of committed rows: `python -m bench.readme`.

Nothing is simulated. A test makes the same texts and fails when a file says anything else.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.output import META
from bench.readme_plot import DARK, LIGHT, Line, Point, plot_svg
from bench.reproduce.output import FIGURES_CSV, README, read_rows, rendered
from bench.reproduce.readme import figure_name, interval_text, value_text
from bench.reproduce.rows import FigureRow
from bench.reproduce.rules import MIDDLE_LOAD, TIGHT_CACHE, TIGHT_HOST
from bench.study_output import replace_text
from libra.errors import LibraError

ROOT = Path(__file__).parents[1]
PAPER, OWN = "results/reproduce", "results/libra"
PLOT, PLOT_DARK = f"{PAPER}/plot.svg", f"{PAPER}/plot-dark.svg"
LOG = "results/LOG.md"
BEGIN, END = "<!-- results: made by `python -m bench.readme` -->", "<!-- end of results -->"
ALL, TIGHT = "all scenarios", f"all scenarios, tight memory, {MIDDLE_LOAD:g} of fastlibra's own peak"
ABLATIONS = ("wom", "wos", "wol", "woc", "wov", "wou", "bfs")
RANKINGS = ("rrip", "hawkeye", "halp", "order-only")
SYSTEMS = ("vllm", "slora")
OTHERS = ("sglang", "chameleon", "caraserve")
BEST = ("libra", "clairvoyant")
VERDICTS = {"no": "Opposite sign", "none": "No difference", "unclear": "Too close to call"}
_HEAD = "| | ours | 95 % interval | paper | same sign |\n| --- | ---: | ---: | ---: | --- |"

Rows = dict[tuple[str, str], FigureRow]


def texts(root: Path = ROOT) -> dict[Path, str]:
    """Every file that is made from rows, and what it must say. Raises LibraError."""
    rows = _rows(root / PAPER)
    ttft, peak = ttft_lines(rows), peak_lines(rows)
    made = {root / folder / README: rendered(root / folder) for folder in _present(root)}
    made |= {root / PLOT: plot_svg(ttft, peak, LIGHT), root / PLOT_DARK: plot_svg(ttft, peak, DARK)}
    made[root / README] = _with_part(root / README, _part(root, rows))
    made[root / LOG] = _with_part(root / LOG, differences(read_rows(root / PAPER / FIGURES_CSV)))
    return made


def _with_part(path: Path, part: str) -> str:
    """The file with what stands between the two marks replaced. Raises LibraError where they are not there."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise LibraError(f"{path}: has no part between {BEGIN} and {END}; put the two lines back")
    return f"{before}{BEGIN}\n{part}\n\n{END}{after}"


def differences(rows: Sequence[FigureRow]) -> str:
    """What of the paper's numbers has not its sign here, by verdict, figure and case, the paper's in parentheses."""
    judged = [row for row in rows if row.same_sign]
    count = Counter(row.same_sign for row in judged)
    said = [
        f"Of {len(judged)} numbers that the paper gives, {count['yes']} have its sign, {count['no']} the opposite, "
        f"{count['none']} show no difference, {count['unclear']} are too close to call.\n"
    ]
    for verdict, words in VERDICTS.items():
        own = [row for row in judged if row.same_sign == verdict]
        for figure, case in dict.fromkeys((row.figure, row.case) for row in own):
            found = "; ".join(_beside(row) for row in own if (row.figure, row.case) == (figure, case))
            said.append(f"- {words}, {figure_name(figure)}, {case}: {found}.")
    return "\n".join(said)


def _beside(row: FigureRow) -> str:
    paper = row.note if row.paper is None else value_text(row, row.paper)
    return f"{row.metric} {value_text(row, row.ours)} ({paper})"


def ttft_lines(rows: Rows) -> list[Line]:
    """Mean TTFT of each policy over fastlibra's."""
    lines = [
        _line(rows, policy, _inverse(rows.get(("all cases", f"TTFT, fastlibra vs {policy}")))) for policy in SYSTEMS
    ]
    lines += [
        _line(rows, policy, rows.get((ALL, f"TTFT, {policy} vs fastlibra")))
        for policy in (*OTHERS, *ABLATIONS, *RANKINGS, *BEST)
    ]
    return [line for line in lines if line.values()]


def peak_lines(rows: Rows) -> list[Line]:
    """Peak load of each policy over fastlibra's: systems over the grid, ablations in the case that has them."""
    lines = [
        _only(policy, _inverse(rows.get(("all cases", f"peak load, fastlibra vs {policy}")))) for policy in SYSTEMS
    ]
    for policy in ABLATIONS:
        found = (row for (_, metric), row in rows.items() if metric == f"peak load, {policy} vs fastlibra")
        lines.append(_only(policy, _as_ratio(next(found, None))))
    return [line for line in lines if line.values()]


def main() -> None:
    for path, text in texts().items():
        replace_text(path, text)


def _part(root: Path, rows: Rows) -> str:
    meta = json.loads((root / PAPER / META).read_text(encoding="utf-8"))
    scale = meta["scale"]
    picture = (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{PLOT_DARK}">'
        f'<img src="{PLOT}" alt="Mean TTFT and peak load of each policy over fastlibra\'s"></picture>'
    )
    said = (
        f"`{meta['command'].partition(' --out')[0]}`, *simulated on {meta['device']} from datasheet rates*: "
        f"{meta['num_cells']} cells, {scale['seeds']} seeds, loads at which both policies compared are stable"
        f"{left_out(rows)}, memory for half of the working set. *Tight*: HBM for {TIGHT_CACHE:g} and a host tier for "
        f"{TIGHT_HOST:g} of it, PCIe 4, {MIDDLE_LOAD:g} of fastlibra's own peak. Every figure with its breakdown, and "
        f"what did not reproduce: [{PAPER}]({PAPER})."
    )
    return "\n\n".join(part for part in (picture, said, _paper_table(rows), _own_table(root)) if part)


def left_out(rows: Rows) -> str:
    """How many settings the ratios to the systems leave out, since a policy saturates there; nothing where none."""
    left = []
    for name in SYSTEMS:
        row = rows.get(("all cases", f"TTFT, fastlibra vs {name} (SATURATED)"))
        if row is not None:
            left.append(f"{row.note.partition(';')[0]} with {name}")
    return f" (without {' and '.join(left)}, SATURATED)" if left else ""


def _paper_table(rows: Rows) -> str:
    wanted = [
        *(
            ("all cases", f"{metric}, fastlibra vs {name}")
            for name in SYSTEMS
            for metric in ("TTFT", "TPOT", "peak load")
        ),
        *((case, f"TTFT, {name} vs fastlibra") for name in ABLATIONS for case in (ALL, TIGHT)),
    ]
    return _table(rows[key] for key in wanted if key in rows)


def _own_table(root: Path) -> str:
    if OWN not in _present(root):
        return ""
    rows = read_rows(root / OWN / FIGURES_CSV)
    kept = [
        row for row in rows if row.case in ("whole grid", "worst stable cell") and "clairvoyant vs" not in row.metric
    ]
    lines = []
    for row in kept:
        # The breakdown stays in the study's own README.
        note = row.note.partition("ms for ")[0].rstrip("; ")
        lines.append(f"| {row.metric}, {row.case} | {value_text(row, row.ours)} | {interval_text(row)} | {note} |")
    head = "| `libra` against `fastlibra` | | 95 % interval | |\n| --- | ---: | ---: | --- |"
    said = (
        f"Our own policy over cache, host tier, load and scenario ([{OWN}]({OWN}), "
        "[what it does](docs/libra-policy.md)):"
    )
    return "\n\n".join((said, "\n".join((head, *lines))))


def _table(rows: Iterable[FigureRow]) -> str:
    lines = []
    for row in rows:
        name = f"{row.metric} (tight)" if row.case == TIGHT else row.metric
        paper = value_text(row, row.paper)
        lines.append(f"| {name} | {value_text(row, row.ours)} | {interval_text(row)} | {paper} | {row.same_sign} |")
    return "\n".join((_HEAD, *lines))


def _rows(path: Path) -> Rows:
    """The first row of each case and metric."""
    found: Rows = {}
    for row in read_rows(path / FIGURES_CSV):
        found.setdefault((row.case, row.metric), row)
    return found


def _present(root: Path) -> Sequence[str]:
    return [folder for folder in (PAPER, OWN) if (root / folder / FIGURES_CSV).is_file()]


def _line(rows: Rows, policy: str, row: FigureRow | None) -> Line:
    tight = rows.get((TIGHT, f"TTFT, {policy} vs fastlibra"))
    return Line(policy, _point(row), _point(tight), row.paper if row else None)


def _only(policy: str, row: FigureRow | None) -> Line:
    return Line(policy, _point(row), None, row.paper if row else None)


def _point(row: FigureRow | None) -> Point | None:
    return None if row is None or row.ours is None else Point(row.ours, row.low, row.high)


def _as_ratio(row: FigureRow | None) -> FigureRow | None:
    """A change in per cent as a ratio."""
    if row is None or row.ours is None:
        return None
    ours, low, high, paper = (
        None if value is None else 1 + value / 100 for value in (row.ours, row.low, row.high, row.paper)
    )
    return FigureRow(row.figure, row.case, row.metric, "x", ours, low, high, paper)


def _inverse(row: FigureRow | None) -> FigureRow | None:
    """fastlibra's change against a policy as the policy's ratio to fastlibra."""
    row = _as_ratio(row)
    if row is None:
        return None
    ours, low, high, paper = (
        None if value is None else 1 / value for value in (row.ours, row.high, row.low, row.paper)
    )
    return FigureRow(row.figure, row.case, row.metric, "x", ours, low, high, paper)


if __name__ == "__main__":
    main()
