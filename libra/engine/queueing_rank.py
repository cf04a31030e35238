"""Rank-aware admission: CaraServe's Algorithm 1 on one server (arXiv 2401.11240; Toppings, ATC 2025)."""

from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import islice

import numpy as np

from libra.engine.executor import Executor
from libra.engine.queueing import Queueing, split_by_patience
from libra.engine.sequence import Sequence

# A batch may decode this much slower than one of the same size without adapters.
SLO_FACTOR = 1.5
# What the models are fitted on, as in the paper: batches of 4 to 32; prompts of a middling length.
BATCH_SIZES = (4, 32)
NUM_BATCHES = 200
PROMPT_TOKENS = 256

RankOf = Callable[[str | None], int]


@dataclass(frozen=True, slots=True)
class StepModel:
    """Time of a step over requests of given ranks, ``slope * load + offset``.

    ``padded``: load = requests * highest rank, for kernels that pad ranks (the paper's Perf_BGMV); else the sum of
    ranks (Perf_MBGMV).
    """

    padded: bool
    slope: float
    offset: float
    r_squared: float

    def load(self, ranks: Items[int]) -> float:
        return float(len(ranks) * max(ranks, default=0) if self.padded else sum(ranks))

    def seconds(self, ranks: Items[int]) -> float:
        return self.slope * self.load(ranks) + self.offset

    def added_seconds(self, ranks: Items[int], rank: int) -> float:
        """What one more request of ``rank`` adds to a step over ``ranks``."""
        return self.slope * (self.load([*ranks, rank]) - self.load(ranks))


def fit_step_model(
    executor: Executor, rank_of: RankOf, adapters: Items[str], tokens_each: int, seed: int = 0
) -> StepModel:
    """The better of the two models, by R^2, on batches of random ``adapters`` as ``executor`` times them.

    ``tokens_each``: new tokens per request, 1 for decode. Raises LibraError when the executor can time no batches.
    Without adapters nothing adds to a step.
    """
    if not adapters:
        return StepModel(False, 0.0, 0.0, 1.0)
    generator = np.random.default_rng(seed)
    names = sorted(adapters)
    batches = [generator.choice(names, size).tolist() for size in generator.integers(*BATCH_SIZES, NUM_BATCHES)]
    seconds = np.array([executor.step_seconds(batch, tokens_each) for batch in batches])
    models: list[StepModel] = []
    for padded in (False, True):
        loads = np.array([StepModel(padded, 0, 0, 0).load([rank_of(name) for name in batch]) for batch in batches])
        columns = np.stack([loads, np.ones_like(loads)], axis=1)
        (slope, offset), *_ = np.linalg.lstsq(columns, seconds, rcond=None)
        residual = float(((columns @ (slope, offset) - seconds) ** 2).sum())
        spread = float(((seconds - seconds.mean()) ** 2).sum())
        models.append(StepModel(padded, max(float(slope), 0.0), float(offset), 1 - residual / spread if spread else 1))
    return max(models, key=lambda model: model.r_squared)


class RankAware(Queueing):
    """Cheapest first: what a request adds to the prefill at hand, spread over an average answer, and to a decode step.

    Requests with which decoding would miss the SLO wait until the batch is smaller. The paper chooses a server for each
    request; on one server what is left to choose is who enters the batch and when, and here nobody is passed for
    longer than ``max_pass_s``.
    """

    reorders = True

    def __init__(
        self, executor: Executor, rank_of: RankOf, adapters: Items[str], max_pass_s: float, max_scan: int
    ) -> None:
        """Fits the models to ``adapters``; others may come later. Raises LibraError when the executor can time no
        batches."""
        self._executor = executor
        self._rank_of = rank_of
        self._max_pass_s = max_pass_s
        self._max_scan = max_scan
        self.prefill = fit_step_model(executor, rank_of, adapters, PROMPT_TOKENS)
        self.decode = fit_step_model(executor, rank_of, adapters, 1)
        self._limits: dict[int, float] = {}
        self._active: dict[Sequence, int] = {}
        self._num_answers = 0
        self._num_answer_tokens = 0
        self._costs: dict[Sequence, float] | None = None

    def order(self, waiting: deque[Sequence], now_s: float) -> Iterable[Sequence]:
        """Looks at the ``max_scan`` requests that came first."""
        window = islice(waiting, self._max_scan)
        first, rest = split_by_patience(window, now_s, self._max_pass_s)
        if self._costs is None:
            self._costs = {}
        running = list(self._active.values())
        prefilling = [rank for sequence, rank in self._active.items() if not sequence.num_output_tokens]
        for sequence in rest:
            if sequence not in self._costs:
                self._costs[sequence] = self._cost(sequence, running, prefilling)
        costs = self._costs
        within = [sequence for sequence in rest if costs[sequence] < np.inf]
        return [*first, *sorted(within, key=costs.__getitem__)]

    def _cost(self, sequence: Sequence, running: list[int], prefilling: list[int]) -> float:
        """Algorithm 1's cost of taking ``sequence`` in; infinite when decoding would miss the SLO."""
        rank = self._rank_of(sequence.adapter_id)
        if running and self.decode.seconds([*running, rank]) > self._limit(len(running) + 1):
            return np.inf
        answer_tokens = self._num_answer_tokens / self._num_answers if self._num_answers else 1.0
        prefill = self.prefill.added_seconds(prefilling, rank)
        return prefill / answer_tokens + self.decode.added_seconds(running, rank)

    def _limit(self, num_requests: int) -> float:
        if num_requests not in self._limits:
            without = self._executor.step_seconds([None] * num_requests, 1)
            self._limits[num_requests] = SLO_FACTOR * without
        return self._limits[num_requests]

    def admitted(self, sequence: Sequence) -> None:
        self._active[sequence] = self._rank_of(sequence.adapter_id)
        self._costs = None

    def left(self, sequence: Sequence) -> None:
        if self._active.pop(sequence, None) is not None and sequence.is_complete:
            self._num_answers += 1
            self._num_answer_tokens += sequence.num_output_tokens
        self._costs = None
