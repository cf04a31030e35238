"""The contract between the engine and whatever computes a step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

from libra.engine.sequence import Sequence


class PrefillChunk(NamedTuple):
    """``num_tokens`` tokens of ``sequence`` from its ``num_computed`` on. The last chunk yields a token."""

    sequence: Sequence
    num_tokens: int

    @property
    def is_last(self) -> bool:
        return self.sequence.num_computed + self.num_tokens == self.sequence.num_tokens


@dataclass(slots=True)
class StepBatch:
    """What one engine step computes: one token for each of ``decode`` and a chunk for each of ``prefill``.

    Block tables already cover the tokens to be written. Prefill sequences whose chunk ends at ``num_tokens`` and all
    decode sequences yield a next token.
    """

    decode: list[Sequence] = field(default_factory=list)
    prefill: list[PrefillChunk] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.decode or self.prefill)


class StepResult(NamedTuple):
    """``step_ends``: the time each computed step ended. ``tokens``: per decode sequence, then per last prefill chunk,
    the sampled token of the last step; empty when the executor does not sample (simulation)."""

    step_ends: list[float]
    tokens: list[int]


class Executor(ABC):
    """Computes steps. It reads sequences and blocks, writes KV, and never changes scheduler or cache state."""

    @abstractmethod
    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        """Computes ``batch``, and may repeat it as further identical decode steps.

        At most ``max_steps`` steps are computed and none starts at or after ``until_s``; real executors compute
        exactly one. The engine's clock stands at the end of the last step on return. Raises nothing for valid batches.
        """

    @abstractmethod
    def prefill_seconds(self, num_tokens: int) -> float:
        """Estimated time to compute ``num_tokens`` prompt tokens: the price of recomputing KV instead of loading it."""

    @abstractmethod
    def describe(self) -> str:
        """The caption of every table made with this executor: "simulated on ..." or "measured on ..."."""
