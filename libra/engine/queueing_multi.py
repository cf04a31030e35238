"""Chameleon's multi-queue admission (Iliakopoulou et al., MICRO 2025, arXiv 2411.17741)."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from libra.clock import Clock
from libra.engine.queueing import Queueing, split_by_patience
from libra.engine.sequence import Sequence

AdapterSize = Callable[[str | None], int]
FloatArray = npt.NDArray[np.float64]
# Published constants: weights of prompt and output, the most queues, seconds between refreshes, SLO over low load.
INPUT_WEIGHT, OUTPUT_WEIGHT = 0.4, 0.6
MAX_QUEUES = 4
REFRESH_S = 300.0
SLO_FACTOR = 5.0


@dataclass(slots=True)
class _Past:
    """A request of the last ``REFRESH_S``: what it asked for, and how long it took once admitted (None: not yet)."""

    arrival_s: float
    size: float
    tokens: int
    admitted_s: float = 0.0
    service_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Classes:
    """``cutoffs`` between queues, by size, ascending; ``quotas`` in tokens, one a queue."""

    cutoffs: tuple[float, ...]
    quotas: tuple[float, ...]

    def of(self, size: float) -> int:
        return int(np.searchsorted(self.cutoffs, size, side="right"))


class MultiQueue(Queueing):
    """Requests of like size queue together, and each queue has tokens of its own to spend, so that small ones are not
    held up by large ones and large ones do not starve.

    Size is (A * prompt / longest + B * output / longest) * adapter / largest. K-means puts cutoffs half-way between its
    centroids. A queue of requests of S tokens that take D seconds and come L times a second needs S * D * (1/SLO + L)
    tokens; all tokens are shared out in that proportion, and never less than one request's. First every queue spends
    its own, then what is left is lent in order. Admission never preempts. Who has been offered once stays in the order.

    The output length, which the paper predicts with 80 % accuracy, is the true one. The SLO is ``SLO_FACTOR`` times
    the queue's mean service time, which stands for its latency at low load. Refreshes come at doubling times until they
    are ``REFRESH_S`` apart, so that short runs have queues at all.
    """

    reorders = True

    def __init__(
        self, clock: Clock, total_tokens: int, adapter_size: AdapterSize, max_pass_s: float, max_scan: int
    ) -> None:
        """``total_tokens``: what the pool holds. ``adapter_size``: an adapter's blocks, or any other measure."""
        self._clock = clock
        self._total_tokens = total_tokens
        self._adapter_size = adapter_size
        self._max_pass_s, self._max_scan = max_pass_s, max_scan
        self._longest_input = self._longest_output = self._largest_adapter = 1
        self._past: dict[Sequence, _Past] = {}
        self._classes = _Classes((), (float(total_tokens),))
        self._queues: list[deque[Sequence]] = [deque()]
        # Spends: queue and tokens of everybody offered or admitted.
        self._spends: dict[Sequence, tuple[int, int]] = {}
        self._offered: dict[Sequence, None] = {}
        self._next_refresh_s = 1.0

    def order(self, waiting: deque[Sequence], now_s: float) -> Iterable[Sequence]:
        self._offer()
        if math.isinf(self._max_pass_s):
            return list(self._offered)
        first, _ = split_by_patience(islice(waiting, self._max_scan), now_s, self._max_pass_s)
        return list(dict.fromkeys([*first, *self._offered]))

    # ---- events ----------------------------------------------------------------------------------------------------

    def joined(self, sequence: Sequence) -> None:
        now_s = self._clock.now()
        if sequence.record.preemptions:
            # It was let in once; it need not queue again, and goes before those offered since.
            self._spend(sequence)
            self._offered = dict.fromkeys([sequence, *self._offered])
            return
        self._longest_input = max(self._longest_input, sequence.num_prompt_tokens)
        self._longest_output = max(self._longest_output, sequence.request.output_tokens)
        self._largest_adapter = max(self._largest_adapter, self._adapter_size(sequence.adapter_id))
        self._past[sequence] = _Past(now_s, self._size(sequence), sequence.max_tokens)
        self._queues[self._classes.of(self._past[sequence].size)].append(sequence)
        if now_s >= self._next_refresh_s:
            self._next_refresh_s = now_s + min(now_s, REFRESH_S)
            self._refresh(now_s)

    def admitted(self, sequence: Sequence) -> None:
        if sequence in self._offered:
            del self._offered[sequence]
        else:
            self._unqueue(sequence)
            self._spend(sequence)
        if sequence in self._past:
            self._past[sequence].admitted_s = self._clock.now()

    def left(self, sequence: Sequence) -> None:
        if sequence in self._spends:
            del self._spends[sequence]
            self._offered.pop(sequence, None)
        else:
            self._unqueue(sequence)
        past = self._past.get(sequence)
        if past is not None and sequence.is_complete:
            past.service_s = self._clock.now() - past.admitted_s

    def _unqueue(self, sequence: Sequence) -> None:
        for queue in self._queues:
            if sequence in queue:
                queue.remove(sequence)

    # ---- spending --------------------------------------------------------------------------------------------------

    def _offer(self) -> None:
        """Every queue spends its own tokens, then what is left is lent, smallest requests first."""
        used = [0] * len(self._queues)
        for number, tokens in self._spends.values():
            used[number] += tokens
        for number, queue in enumerate(self._queues):
            while queue and used[number] + queue[0].max_tokens <= self._classes.quotas[number]:
                used[number] += self._take(queue)
        left = self._total_tokens - sum(used)
        for queue in self._queues:
            while queue and (queue[0].max_tokens <= left or not self._spends):
                left -= self._take(queue)

    def _take(self, queue: deque[Sequence]) -> int:
        sequence = queue.popleft()
        self._offered[sequence] = None
        return self._spend(sequence)

    def _spend(self, sequence: Sequence) -> int:
        past = self._past.get(sequence)
        number = self._classes.of(self._size(sequence) if past is None else past.size)
        self._spends[sequence] = (number, sequence.max_tokens)
        return sequence.max_tokens

    # ---- classes ---------------------------------------------------------------------------------------------------

    def _size(self, sequence: Sequence) -> float:
        """The paper's weighted request size. The base model counts as an adapter of size 1."""
        of_adapter = max(self._adapter_size(sequence.adapter_id), 1)
        asked = INPUT_WEIGHT * sequence.num_prompt_tokens / self._longest_input
        asked += OUTPUT_WEIGHT * sequence.request.output_tokens / self._longest_output
        return asked * of_adapter / self._largest_adapter

    def _refresh(self, now_s: float) -> None:
        """Draws cutoffs and quotas anew from the requests of the last ``REFRESH_S``, and sorts the waiting again."""
        waiting = [sequence for queue in self._queues for sequence in queue]
        keep = self._spends.keys() | set(waiting)
        since_s = now_s - REFRESH_S
        self._past = {s: past for s, past in self._past.items() if past.arrival_s >= since_s or s in keep}
        for sequence, past in self._past.items():
            past.size = self._size(sequence)
        recent = [past for past in self._past.values() if past.arrival_s >= since_s]
        cutoffs = cutoffs_between(np.array([past.size for past in recent]))
        sized = _Classes(cutoffs, ())
        groups: list[list[_Past]] = [[] for _ in range(len(cutoffs) + 1)]
        for past in recent:
            groups[sized.of(past.size)].append(past)
        needs = _tokens_needed(groups, min(REFRESH_S, max(now_s, 1e-9)))
        largest = [max((past.tokens for past in group), default=0) for group in groups]
        shares = [self._total_tokens * need / sum(needs) for need in needs]
        self._classes = _Classes(cutoffs, tuple(map(max, shares, map(float, largest))))
        self._spends = {s: (self._classes.of(self._size(s)), tokens) for s, (_, tokens) in self._spends.items()}
        self._queues = [deque() for _ in groups]
        for sequence in sorted(waiting, key=lambda s: (s.request.arrival_s, s.request.id)):
            self._queues[self._classes.of(self._past[sequence].size)].append(sequence)


def _tokens_needed(groups: list[list[_Past]], window_s: float) -> list[float]:
    """S * D * (1/SLO + L) of each queue, with SLO = ``SLO_FACTOR`` * D; a queue nobody has finished in takes the mean D
    of all, and 1 s before anybody has."""
    served = [past.service_s for group in groups for past in group if past.service_s is not None]
    overall_s = sum(served) / len(served) if served else 1.0
    needs: list[float] = []
    for group in groups:
        of_group = [past.service_s for past in group if past.service_s is not None]
        service_s = sum(of_group) / len(of_group) if of_group else overall_s
        largest = max((past.tokens for past in group), default=1)
        needs.append(largest * (1.0 / SLO_FACTOR + service_s * len(group) / window_s))
    return needs


def cutoffs_between(sizes: FloatArray) -> tuple[float, ...]:
    """Half-way points between the centroids of the best K-means of ``sizes``, K up to ``MAX_QUEUES``.

    The within-cluster sum of squares never grows with K, so that the best K is ``MAX_QUEUES`` unless there are fewer
    distinct sizes.
    """
    num_queues = min(MAX_QUEUES, len(np.unique(sizes)))
    if num_queues < 2:
        return ()
    centroids = k_means(sizes, num_queues)
    return tuple(((centroids[1:] + centroids[:-1]) / 2).tolist())


def k_means(values: FloatArray, num_clusters: int, rounds: int = 50) -> FloatArray:
    """Lloyd's centroids of numbers, ascending, from evenly spaced quantiles of the distinct values.

    A local minimum of the sum of squares, as K-means is; of numbers on a line it is seldom far from the best."""
    centroids: FloatArray = np.quantile(np.unique(values), (np.arange(num_clusters) + 0.5) / num_clusters)
    for _ in range(rounds):
        nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values, side="right")
        counts = np.bincount(nearest, minlength=num_clusters)
        sums = np.bincount(nearest, weights=values, minlength=num_clusters)
        moved = np.where(counts > 0, sums / np.maximum(counts, 1), centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids
