"""The contract between the engine and whatever computes a step."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import NamedTuple

from libra.engine.link import Arrival
from libra.engine.sequence import Sequence, TokenLogprobs
from libra.errors import LibraError
from libra.spec import AdapterSpec

# Rests until a time, or until a transfer ends or something arrives; False once the step under way has ended.
Rest = Callable[[float], bool]


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
    decode sequences yield a next token. ``cold`` are the adapters of prefill chunks that are still on their way to HBM;
    with ``cpu_assist`` their product may be computed on CPU cores meanwhile.
    """

    decode: list[Sequence] = field(default_factory=list)
    prefill: list[PrefillChunk] = field(default_factory=list)
    cold: dict[str, Arrival] = field(default_factory=dict)
    cpu_assist: bool = False

    def __bool__(self) -> bool:
        return bool(self.decode or self.prefill)


class StepResult(NamedTuple):
    """``step_ends``: the time each computed step ended. ``tokens``: per decode sequence, then per last prefill chunk,
    the sampled token of the last step; empty when the executor does not sample (simulation). ``logprobs``: in the same
    order, None for sequences that ask for none; empty when none asks."""

    step_ends: list[float]
    tokens: list[int]
    logprobs: Items[TokenLogprobs | None] = ()


class Executor(ABC):
    """Computes steps. It reads sequences and blocks, writes KV, and never changes scheduler or cache state.

    ``while_busy``, if set, is called with a ``Rest`` once a step is under way, and returns when that has said that the
    step has ended; meanwhile requests are admitted, which touches nothing that the step reads or writes. An executor
    that computes in the engine's own thread cannot call it.
    """

    while_busy: Callable[[Rest], None] | None = None

    @abstractmethod
    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        """Computes ``batch``, and may repeat it as further identical decode steps.

        At most ``max_steps`` steps are computed and none starts at or after ``until_s``; real executors compute
        exactly one. The engine's clock stands at the end of the last step on return. Raises nothing for valid batches.
        """

    @abstractmethod
    def prefill_seconds(self, num_tokens: int) -> float:
        """Estimated time to compute ``num_tokens`` prompt tokens: the price of recomputing KV instead of loading it."""

    def step_seconds(self, adapters: Items[str | None], tokens_each: int) -> float:
        """Estimated time of a step over one sequence for each of ``adapters`` with so many new tokens, 1 to decode.

        Raises LibraError where no profile stands behind the executor.
        """
        raise LibraError(
            f"steps {self.describe()} cannot be estimated ahead, as scheduler rank_aware needs; use --device sim:..., "
            "or another policy"
        )

    @abstractmethod
    def add_adapter(self, spec: AdapterSpec) -> None:
        """Tells of an adapter that later batches may use."""

    @abstractmethod
    def remove_adapter(self, adapter_id: str) -> None:
        """Tells that no later batch uses an adapter; its id may come back for other weights."""

    @property
    def fallback(self) -> str | None:
        """Why steps are computed in another way than was asked for, None where they are not."""
        return None

    @abstractmethod
    def describe(self) -> str:
        """The caption of every table made with this executor: "simulated on ..." or "measured on ..."."""
