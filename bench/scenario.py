"""Scenario files: a whole study in one argument.

A scenario is the flags of `libra bench` in a TOML file, each under its name with underscores; flags on the command line
override it.
"""

import inspect
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import typer

from bench.goodput_flag import GoodputCommand, join_objectives
from libra.errors import LibraError, unknown

SCENARIO_HELP = "chatbot, translation, agents or scale, such as chatbot-50 for 50 adapters, or a TOML file of flags."
DESCRIPTION, SCENARIO = "description", "scenario"
# Flags about this run rather than the study.
NOT_IN_FILES = frozenset({SCENARIO, "out", "report", "disable_tqdm"})
# Two ways to say one thing: a flag for one of them also overrides the file's other one.
ALTERNATIVES = (frozenset({"workload", "trace"}), frozenset({"hbm_cache_gib", "cache_fraction"}))
SEPARATORS = {"goodput": " "}


class ScenarioCommand(GoodputCommand):
    """A command with a parameter ``scenario``, whose file gives the defaults of its other parameters.

    Keys of `libra bench` that this command does not have are left to `libra bench`; other unknown keys are refused.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        parsed, _, _ = self.make_parser(ctx).parse_args(args=join_objectives(args))
        given = {name: value for name, value in parsed.items() if value is not None}
        if "scenario" in given and not ctx.resilient_parsing:
            path, options = read_scenario(given["scenario"])
            overridden = {key for pair in ALTERNATIVES if pair & given.keys() for key in pair}
            ctx.default_map = {key: value for key, value in options.items() if key not in overridden}
            self._check_values(ctx, path)
        return super().parse_args(ctx, args)

    def _check_values(self, ctx: Any, path: Path) -> None:
        """Raises LibraError, naming the file, for a value that the flag of its name would not take."""
        for parameter in self.params:
            if parameter.name in ctx.default_map:
                try:
                    parameter.process_value(ctx, ctx.default_map[parameter.name])
                except typer.BadParameter as error:
                    raise LibraError(f"{path}: {parameter.name}: {error.message}") from None


def read_scenario(name: str) -> tuple[Path, dict[str, str]]:
    """The file of a scenario and its options as the command line would give them.

    ``name`` is a path that ends in .toml, or a shipped scenario, or one with ``-N`` for N adapters. Raises LibraError.
    """
    if name.endswith(".toml"):
        return Path(name), _options(Path(name))
    path, changes = _shipped(name)
    return path, _options(path) | changes


def _shipped(name: str) -> tuple[Path, dict[str, str]]:
    folder = Path(str(files("workloads") / "scenarios"))
    names = sorted(path.stem for path in folder.glob("*.toml"))
    if name in names:
        return folder / f"{name}.toml", {}
    stem, count = name, ""
    if numbered := re.fullmatch(r"(.+)-(\d+)", name):
        stem, count = numbered.groups()
    if stem not in names:
        raise unknown("scenario", name, [*names, *(f"{known}-N" for known in names)])
    return folder / f"{stem}.toml", {"num_loras": count}


def _options(path: Path) -> dict[str, str]:
    table = read_toml(path, "scenario")
    known = {DESCRIPTION, *option_names()}
    for key in table:
        if key not in known:
            raise LibraError(f"{path}: {unknown('key', key, known)}")
    return {key: option_text(path, key, value) for key, value in table.items() if key != DESCRIPTION}


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """The table in a file, which errors call a ``kind``. Raises LibraError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LibraError(f"cannot read {kind} {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LibraError(f"{path} is not TOML: {error}") from None


def option_names() -> set[str]:
    """What a scenario may hold beside its description: the parameters of `libra bench`."""
    from bench.bench_cli import bench

    return inspect.signature(bench).parameters.keys() - NOT_IN_FILES


def option_text(path: Path, key: str, value: object) -> str:
    """A TOML value as the text a user would type: a list is joined as the flag of its name takes lists."""
    if isinstance(value, list):
        return SEPARATORS.get(key, ",").join(option_text(path, key, part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise LibraError(f"{path}: {key}: must be text, a number, true or false, or a list of these")
