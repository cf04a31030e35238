"""Service level objectives as people write them: `ttft:500 tpot:50` in milliseconds, `ttft:5x tpt:1.5x` relative."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from libra.errors import LibraError, unknown


@dataclass(frozen=True)
class Multiple:
    """So many times a latency that a reference run tells (bench.slo_reference)."""

    factor: float

    def __format__(self, spec: str) -> str:
        return f"{self.factor:g}x"


@dataclass(frozen=True)
class Objectives:
    """Upper limits in ms; None is no limit. A request is good when it meets every limit that is set."""

    ttft: float | None = None
    tpot: float | None = None
    tpt: float | None = None
    e2el: float | None = None

    def __bool__(self) -> bool:
        return any(limit is not None for limit in self.limits().values())

    def limits(self) -> dict[str, float | None]:
        """Metric name (ttft, tpot, tpt, e2el) -> limit in ms."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __str__(self) -> str:
        return " ".join(f"{name}:{limit:g}" for name, limit in self.limits().items() if limit is not None)


def parse_objectives(texts: Iterable[str], option: str = "--goodput") -> Objectives:
    """Reads objectives as ``option`` takes them, all in milliseconds; see ``parse_limits``.

    Raises LibraError as that does, and for a limit relative to a reference run.
    """
    limits = {}
    for name, limit in parse_limits(texts, option).items():
        if isinstance(limit, Multiple):
            raise LibraError(f"{option} {name}:{limit}: there is no reference run here; give milliseconds")
        limits[name] = limit
    return Objectives(**limits)


def parse_limits(texts: Iterable[str], option: str = "--goodput") -> dict[str, float | Multiple]:
    """Reads limits by metric name, several to a text (split at spaces and commas) or one each: milliseconds, or
    multiples such as ``5x``.

    Raises LibraError for an unknown name, a limit that is not a positive number, or a name given twice.
    """
    limits: dict[str, float | Multiple] = {}
    names = [field.name for field in fields(Objectives)]
    for item in " ".join(texts).replace(",", " ").split():
        name, separator, number = item.partition(":")
        if not separator:
            raise LibraError(f"{option} {item!r}: write NAME:MILLISECONDS, for example ttft:500")
        if name not in names:
            raise unknown(f"objective in {option}", name, names)
        if name in limits:
            raise LibraError(f"{option}: {name} is given twice; keep one")
        limits[name] = _limit(item, number, option)
    return limits


def _limit(item: str, number: str, option: str) -> float | Multiple:
    try:
        limit = float(number.removesuffix("x"))
    except ValueError:
        limit = math.nan
    if not (math.isfinite(limit) and limit > 0):
        raise LibraError(
            f"{option} {item!r}: the limit must be a positive number of milliseconds, as in ttft:500, or of times a "
            "reference, as in ttft:5x"
        )
    return Multiple(limit) if number.endswith("x") else limit
