"""Service level objectives as people write them: `ttft:500 tpot:50`, in milliseconds."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from libra.errors import LibraError, unknown


@dataclass(frozen=True)
class Objectives:
    """Upper limits in ms; None is no limit. A request is good when it meets every limit that is set."""

    ttft: float | None = None
    tpot: float | None = None
    e2el: float | None = None

    def __bool__(self) -> bool:
        return any(limit is not None for limit in self.limits().values())

    def limits(self) -> dict[str, float | None]:
        """Metric name (ttft, tpot, e2el) -> limit in ms."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __str__(self) -> str:
        return " ".join(f"{name}:{limit:g}" for name, limit in self.limits().items() if limit is not None)


def parse_objectives(texts: Iterable[str]) -> Objectives:
    """Reads objectives as ``--goodput`` takes them, several to a text (split at spaces and commas) or one each.

    Raises LibraError for an unknown name, a limit that is not a positive number, or a name given twice.
    """
    limits: dict[str, float] = {}
    names = [field.name for field in fields(Objectives)]
    for item in " ".join(texts).replace(",", " ").split():
        name, separator, number = item.partition(":")
        if not separator:
            raise LibraError(f"--goodput {item!r}: write NAME:MILLISECONDS, for example ttft:500")
        if name not in names:
            raise unknown("objective in --goodput", name, names)
        if name in limits:
            raise LibraError(f"--goodput: {name} is given twice; keep one")
        limits[name] = _milliseconds(item, number)
    return Objectives(**limits)


def _milliseconds(item: str, number: str) -> float:
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not (math.isfinite(limit) and limit > 0):
        raise LibraError(f"--goodput {item!r}: the limit must be a positive number of milliseconds, as in ttft:500")
    return limit
