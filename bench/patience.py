"""Ends a run early when its outcome is settled: a saturated run would otherwise serve its whole queue."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.statistics import student_t_quantile
from libra.engine.engine import Engine
from libra.engine.record import RequestRecord
from libra.engine.replay import Progress

CHECK_S = 1.0


class HopelessRun(Exception):
    """The run's mean TTFT is sure to exceed the limit. ``at_s``: when, on the engine's clock. ``waiting``: requests in
    the queue then."""

    def __init__(self, at_s: float, waiting: int) -> None:
        super().__init__(f"hopeless at {at_s:.1f} s with {waiting} requests waiting")
        self.at_s, self.waiting = at_s, waiting


@dataclass(frozen=True)
class Patience:
    """Waits until the waiting so far, spread over all requests of the trace, comes to more than ``limit_ms``: requests
    that have their first token have waited that long, the others at least until now."""

    limit_ms: float
    warmup_s: float = 0.0

    def watch(self, engine: Engine, num_requests: int, on_progress: Progress) -> Progress:
        """A progress callback for ``engine`` that calls ``on_progress`` and raises HopelessRun when it is time."""
        budget_s = self.limit_ms / 1000 * num_requests
        ended_s, num_ended, next_check_s = 0.0, 0, 0.0

        def watching(now_s: float, num_done: int) -> None:
            nonlocal ended_s, num_ended, next_check_s
            on_progress(now_s, num_done)
            if now_s < next_check_s:
                return
            next_check_s = now_s + CHECK_S
            ended_s += self._waited(engine.records[num_ended:], now_s)
            num_ended = len(engine.records)
            scheduler = engine.scheduler
            open_records = [s.record for s in (*scheduler.waiting, *scheduler.loading, *scheduler.running)]
            if ended_s + self._waited(open_records, now_s) > budget_s:
                raise HopelessRun(now_s, len(scheduler.waiting))

        return watching

    def _waited(self, records: Sequence[RequestRecord], now_s: float) -> float:
        """Seconds these requests have waited for their first token. Rejected ones never do."""
        return sum(
            (now_s if record.first_token_s is None else record.first_token_s) - record.arrival_s
            for record in records
            if record.status != "rejected" and record.arrival_s >= self.warmup_s
        )


def hopeless_factor(num_seeds: int) -> float:
    """How far above a limit the mean of one of ``num_seeds`` must be for the upper end of their 95 % interval to lie
    above it whatever the other seeds give.

    With one seed at x and the others, 0 or more, at y < x, that end is y + (x - y)(1 + t) / n: the least over y is x
    where (1 + t) / n is 1 or more, and x (1 + t) / n, at y = 0, where it is less.
    """
    if num_seeds == 1:
        return 1.0
    return max(1.0, num_seeds / (1.0 + student_t_quantile(num_seeds - 1)))
