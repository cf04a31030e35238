"""The TOML file of a sweep: options of `libra bench` that are fixed, and under [grid] those that vary."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.bench_options import parse_settings
from bench.scenario import ALTERNATIVES, DESCRIPTION, SCENARIO, option_names, option_text, read_scenario, read_toml
from bench.settings import BenchSettings
from libra.errors import LibraError, unknown

GRID = "grid"
# A cell is one run: of one seed, compared with others in the sweep's own table.
NOT_IN_SWEEPS = frozenset({"repeats", "baseline"})


@dataclass(frozen=True)
class SweepFile:
    """``fixed``: option -> text. ``grid``: option -> the texts it goes through. All are as a user would type them."""

    path: Path
    fixed: Mapping[str, str]
    grid: Mapping[str, tuple[str, ...]]

    def options(self, values: Mapping[str, str]) -> dict[str, str]:
        """All options of the cell that ``values`` of the grid name."""
        return {**self.fixed, **values}

    def settings(self, values: Mapping[str, str]) -> BenchSettings:
        """The same as settings. Raises LibraError, naming the file."""
        return parse_settings(self.options(values), str(self.path))


def read_sweep(path: Path) -> SweepFile:
    """Reads the file. ``scenario`` names one whose options hold where the file sets none. Raises LibraError."""
    table = read_toml(path, "sweep")
    grid_table = table.pop(GRID, None)
    if not isinstance(grid_table, dict) or not grid_table:
        raise LibraError(f'{path}: has no [grid]; add one, with lists such as policy = ["fastlibra", "vllm"]')
    grid = {key: _texts(path, key, value) for key, value in grid_table.items()}
    scenario = table.pop(SCENARIO, None)
    fixed = {key: option_text(path, key, value) for key, value in table.items() if key != DESCRIPTION}
    for key in (*fixed, *grid):
        _check_key(path, key)
    twice = fixed.keys() & grid.keys()
    if twice:
        raise LibraError(f"{path}: {min(twice)}: is fixed and in [grid]; keep one")
    return SweepFile(path, _with_scenario(scenario, fixed, grid), grid)


def _with_scenario(
    scenario: object, fixed: Mapping[str, str], grid: Mapping[str, tuple[str, ...]]
) -> Mapping[str, str]:
    """The fixed options above those of a scenario, where one is named."""
    if scenario is None:
        return fixed
    _, options = read_scenario(str(scenario))
    given = fixed.keys() | grid.keys()
    overridden = given | NOT_IN_SWEEPS | {key for pair in ALTERNATIVES if pair & given for key in pair}
    return {**{key: value for key, value in options.items() if key not in overridden}, **fixed}


def _check_key(path: Path, key: str) -> None:
    known = option_names() - NOT_IN_SWEEPS
    if key not in known:
        raise LibraError(f"{path}: {unknown('key', key, {*known, DESCRIPTION, SCENARIO, GRID})}")


def _texts(path: Path, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise LibraError(f"{path}: {key}: in [grid] this must be a list with at least one value")
    texts = tuple(option_text(path, key, part) for part in value)
    if len(set(texts)) < len(texts):
        raise LibraError(f"{path}: {key}: names a value twice; keep one")
    return texts
