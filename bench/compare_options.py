"""The knobs of a comparison and their defaults, apart from its code so that `--help` stays quick."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CompareOptions:
    """``allow_different`` pairs by seed and request id even where traces or requests differ."""

    resamples: int = 10_000
    seed: int = 0
    allow_different: bool = False
