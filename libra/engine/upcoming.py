"""Requests that have not arrived yet: each comes at its time, or when those it waits for have finished."""

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from libra.engine.record import RequestRecord
from libra.request import Request


@dataclass(slots=True)
class _Blocked:
    """A request that still waits for ``num_open`` others; the latest to finish so far did so at ``ready_s``."""

    position: int
    request: Request
    num_open: int
    ready_s: float = 0.0


class Upcoming:
    """The rest of a replay. True while there is any.

    A request whose ``after`` names one that is rejected, aborted or cancelled is cancelled itself: its prompt holds
    that one's answer, which nobody will ever give.
    """

    def __init__(self, requests: Iterable[Request]) -> None:
        """Raises ValueError when a request waits for one that does not stand before it."""
        self.cancelled: list[RequestRecord] = []
        # Position breaks ties, so that equal times keep the order of the trace.
        self._due: list[tuple[float, int, Request]] = []
        self._blocked: dict[int, _Blocked] = {}
        self._followers: defaultdict[int, list[int]] = defaultdict(list)
        self._num_noted = 0
        known: set[int] = set()
        for position, request in enumerate(requests):
            if request.after:
                self._block(position, request, known)
            else:
                self._due.append((request.arrival_s, position, request))
            known.add(request.id)
        heapq.heapify(self._due)

    def __bool__(self) -> bool:
        return bool(self._due or self._blocked)

    @property
    def next_arrival_s(self) -> float:
        """The next known arrival; infinite when all that are left wait for others."""
        return self._due[0][0] if self._due else math.inf

    def take(self, now_s: float) -> Iterator[Request]:
        """Takes out the requests that have arrived by ``now_s``, in order, each with its true ``arrival_s``."""
        while self._due and self._due[0][0] <= now_s:
            arrival_s, _, request = heapq.heappop(self._due)
            yield replace(request, arrival_s=arrival_s) if request.after else request

    def note(self, records: Sequence[RequestRecord]) -> None:
        """Reads how requests have ended since the last call; ``records`` is one list that only grows."""
        for record in records[self._num_noted :]:
            if record.status == "finished" and record.finish_s is not None:
                self._release_followers(record.id, record.finish_s)
            else:
                self._cancel_followers(record)
        self._num_noted = len(records)

    def _block(self, position: int, request: Request, known: set[int]) -> None:
        if not known.issuperset(request.after):
            raise ValueError(f"request {request.id} waits for one of {request.after} that does not stand before it")
        self._blocked[request.id] = _Blocked(position, request, len(request.after))
        for identifier in request.after:
            self._followers[identifier].append(request.id)

    def _release_followers(self, identifier: int, finish_s: float) -> None:
        for follower in self._followers.pop(identifier, ()):
            blocked = self._blocked.get(follower)
            if blocked is None:
                continue  # another one it waited for did not finish
            blocked.num_open -= 1
            blocked.ready_s = max(blocked.ready_s, finish_s)
            if blocked.num_open == 0:
                del self._blocked[follower]
                arrival_s = blocked.ready_s + blocked.request.delay_s
                heapq.heappush(self._due, (arrival_s, blocked.position, blocked.request))

    def _cancel_followers(self, ended: RequestRecord) -> None:
        """Cancels whoever waits for ``ended``, whoever waits for those, and so on."""
        lost = [ended]
        while lost:
            cause = lost.pop()
            for follower in self._followers.pop(cause.id, ()):
                blocked = self._blocked.pop(follower, None)
                if blocked is not None:
                    lost.append(_cancelled(blocked.request, cause))
                    self.cancelled.append(lost[-1])


def _cancelled(request: Request, cause: RequestRecord) -> RequestRecord:
    return RequestRecord(
        id=request.id,
        adapter=request.adapter,
        session=request.session,
        arrival_s=request.arrival_s,
        prompt_tokens=request.num_prompt_tokens,
        output_tokens=0,
        status="cancelled",
        reason=f"it waits for request {cause.id}, which was {cause.status}",
        task=request.task,
    )
