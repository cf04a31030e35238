"""What the cache's own work costs, and whether it holds as many adapters as Eq. 3 asks for."""

from dataclasses import dataclass

from bench.reproduce.cells import Case, Cell
from bench.reproduce.ratios import mean_level
from bench.reproduce.rows import FigureRow, figure_row
from bench.reproduce.study import Study

OURS = "fastlibra"
# (column, scale, label, unit, paper's number, note)
LINES: tuple[tuple[str, float, str, str, float | None, str], ...] = (
    ("match_ms", 1.0, "match of the longest path", "ms", 0.5, "paper: match or update in 0.5 to 1 ms"),
    ("score_us_per_node", 1.0, "Eq. 6 of a node", "us", 3.1, "ours scores all nodes in one vector expression"),
    ("tick_ms", 1.0, "a swapper tick, mean of the run", "ms", 0.47, "paper: one swap decision"),
    ("tree_bytes", 1 / 1024, "tree", "KiB", 676.5, "array columns alone; labels and block lists come on top"),
    ("node_bytes", 1.0, "a node", "bytes", 256.0, "paper: 232 bytes and 24 for the cost model"),
    ("on_target_share", 100.0, "adapters in HBM within 5 % of Low_lora", "% of samples", 94.8, ""),
    ("at_least_target_share", 100.0, "adapters in HBM not below Low_lora", "% of samples", None, ""),
)


@dataclass(frozen=True)
class Overheads:
    """Timed in Python on the machine that runs the study: levels to set beside the paper's, not to compare by sign."""

    number: str = "overheads"
    title: str = "Overheads"
    says: str = (
        "tree match and update 0.5 to 1 ms, tree <= 676.5 KB, Eval update <= 3.1 us, swap decision <= 0.47 ms; "
        "adapters within 5 % of Low_lora 94.8 % of the time (HPCA, section VIII)"
    )

    def cases(self, study: Study) -> list[Case]:
        return list(study.scale.study[:1])

    def cells(self, study: Study) -> list[Cell]:
        return [cell for case in self.cases(study) for cell in study.cells_of_kind("probe", case, OURS)]

    def rows(self, study: Study) -> list[FigureRow]:
        rows: list[FigureRow] = []
        for case in self.cases(study):
            results = study.results_of_kind("probe", case, OURS)
            for column, scale, label, unit, paper, note in LINES if results else ():
                level = mean_level([results], column, scale)
                rows.append(figure_row(self.number, case.name, label, unit, level, paper, note))
        return rows
