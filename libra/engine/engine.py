"""The step loop."""

import math
from collections.abc import Callable
from itertools import chain, repeat

import numpy as np

from libra.cache.holding import AdapterInUse
from libra.cache.manager import CacheManager
from libra.cache.memory import KV
from libra.clock import Clock
from libra.engine.config import EngineConfig
from libra.engine.executor import Executor, Rest, StepBatch, StepResult
from libra.engine.link import Transfer
from libra.engine.queueing_choice import choose_queueing
from libra.engine.record import RequestRecord
from libra.engine.scheduler import Scheduler
from libra.engine.sequence import NO_TOKEN, NOT_FINITE, SamplingParams, Sequence, SequenceState, TokenLogprobs
from libra.engine.timeline import Timeline
from libra.engine.upcoming import Upcoming
from libra.request import Request
from libra.spec import AdapterSpec
from libra.tokens import prompt_tokens, replayed_output


class Engine:
    """Requests in, records out. One thread; the clock, the executor and the manager's link decide whether it is real.

    ``on_record`` receives each request's record when it finishes, is rejected or is aborted; unless it is replaced,
    ``records`` keeps them all. ``on_failed_load`` hears of an adapter that could not be read, once its requests have
    been ended; unless it is replaced, the step raises the error.
    """

    def __init__(
        self, config: EngineConfig, clock: Clock, executor: Executor, manager: CacheManager, vocab_size: int
    ) -> None:
        self.config = config
        self.clock = clock
        self.executor = executor
        self.manager = manager
        self.scheduler = Scheduler(config, manager, choose_queueing(config, manager, executor))
        self.timeline = Timeline(manager)
        self.records: list[RequestRecord] = []
        self.on_record: Callable[[RequestRecord], None] = self.records.append
        self.on_failed_load: Callable[[Transfer], None] = _raise_error
        self.num_steps = 0
        self.vocab_size = vocab_size
        self._tick_s = manager.memory.interval_s
        self._num_ticks = 0
        self._num_samples = 0
        # Requests of a replay that have not arrived yet: those that arrive while a step computes are taken from here.
        self.upcoming = Upcoming(())
        # Submits what has arrived, and does nothing else: it is called while a step computes. Whoever replaces it rings
        # the clock when something has.
        self.submit_arrived: Callable[[], None] = self._submit_upcoming
        if manager.policy.admits == "at_any_time":
            executor.while_busy = self._admit_while_busy

    # ---- requests --------------------------------------------------------------------------------------------------

    def submit(self, request: Request, sampling: SamplingParams | None = None) -> Sequence:
        """Queues a request, or rejects it at once when it can never fit.

        With ``sampling`` the model's tokens are kept. Without, the request is replayed: its recorded answer is decoded
        (a named filler where the trace records none), so that every run of a trace sees the same tokens.
        """
        output = replayed_output(request, self.vocab_size) if sampling is None else None
        prompt = prompt_tokens(request, self.vocab_size)
        tokens = np.zeros(len(prompt) + request.output_tokens, dtype=np.uint32)
        tokens[: len(prompt)] = prompt
        sequence = Sequence(request, tokens, self.config.block_tokens, output, sampling or SamplingParams())
        reason = self.manager.reason_never_fits(sequence.adapter_id, sequence.max_tokens)
        if sequence.num_prompt_tokens < 1 or request.output_tokens < 1:
            reason = "needs at least one prompt token and one output token"
        if reason is None:
            self.scheduler.add(sequence)
        else:
            sequence.record.reason = reason
            self._close(sequence, SequenceState.REJECTED)
        return sequence

    def add_adapter(self, spec: AdapterSpec) -> None:
        """Registers an adapter on disk. Raises LibraError as ``CacheManager.add_adapter`` does."""
        self.manager.add_adapter(spec)
        self.executor.add_adapter(spec)

    def remove_adapter(self, adapter_id: str) -> None:
        """Forgets an adapter, its KV, and the blocks of both.

        Raises LibraError when it is unknown, and AdapterInUse while it has requests or something of it is in motion.
        """
        if self.requests_of(adapter_id):
            raise AdapterInUse(f"adapter {adapter_id!r} is in use; remove it when its requests have ended")
        self.manager.remove_adapter(adapter_id)
        self.executor.remove_adapter(adapter_id)

    def requests_of(self, adapter_id: str) -> list[Sequence]:
        """Every waiting, loading or running sequence of an adapter."""
        scheduler = self.scheduler
        everyone = (*scheduler.waiting, *scheduler.loading, *scheduler.running)
        return [sequence for sequence in everyone if sequence.adapter_id == adapter_id]

    def abort(self, sequence: Sequence) -> None:
        """Ends a sequence early, wherever it is; what it held is free for others when this returns;
        loads in flight go on without it."""
        if sequence.state in (SequenceState.WAITING, SequenceState.LOADING, SequenceState.RUNNING):
            self.scheduler.remove(sequence)
            self._close(sequence, SequenceState.ABORTED)

    def finish(self, sequence: Sequence) -> None:
        """Ends a running sequence with what it has generated, as when the caller has seen a stop string."""
        if sequence.state is not SequenceState.RUNNING:
            raise ValueError(f"request {sequence.request.id} is {sequence.state.value}, not running")
        self.scheduler.remove(sequence)
        self._close(sequence, SequenceState.FINISHED)

    def _close(self, sequence: Sequence, state: SequenceState) -> None:
        sequence.state = state
        record = sequence.record
        record.status = state.value
        record.token_times = sequence.token_times
        record.output_tokens = sequence.num_output_tokens
        if state is not SequenceState.REJECTED:
            record.finish_s = self.clock.now()
        self.on_record(record)

    # ---- steps -----------------------------------------------------------------------------------------------------

    def step(self, next_arrival_s: float = math.inf) -> bool:
        """Runs one step, or several identical decode steps up to the next event. False when nothing can be computed
        before a transfer ends or a request arrives."""
        self.manager.collect()
        self._give_up_failed_loads()
        self.catch_up()
        batch = self.scheduler.schedule()
        if not batch:
            return False
        before_s, wants_room = self.clock.now(), self._wants_room(batch)
        # Whoever finishes may write back over what has been saved before.
        awaits_saves = wants_room or self.manager.policy.write_back != "on_evict"
        until_s = min(next_arrival_s, self.next_event_s(awaits_saves))
        result = self.executor.execute(batch, self._max_steps(batch, wants_room), until_s)
        self.num_steps += len(result.step_ends)
        before_s, end_s = [before_s, *result.step_ends][-2:]
        self.scheduler.step_s = end_s - before_s
        self._commit(batch, result)
        return True

    def _admit_while_busy(self, rest: Rest) -> None:
        """Admits whoever can be until the step under way ends: at each arrival and end of a transfer."""
        while rest(self._next_news_s()):
            self.manager.collect()
            self.submit_arrived()
            self.scheduler.admit_ahead()

    def _next_news_s(self) -> float:
        """The next arrival or end of a transfer, as far as they are known in advance."""
        transfer_s = self.manager.memory.link.next_completion_s()
        arrival_s = self.upcoming.next_arrival_s
        return arrival_s if transfer_s is None else min(arrival_s, transfer_s)

    def _submit_upcoming(self) -> None:
        for request in self.upcoming.take(self.clock.now()):
            self.submit(request)

    def _give_up_failed_loads(self) -> None:
        """Ends every request of an adapter that could not be read: none of them can go on without it."""
        if not self.manager.failed_loads:
            return
        for load in self.manager.failed_loads:
            for sequence in self.requests_of(str(load.adapter_id)):
                sequence.record.reason = str(load.error)
                self.scheduler.remove(sequence)
                self._close(sequence, SequenceState.FAILED)
        for load in self.manager.abandon_failed():
            self.on_failed_load(load)

    def next_event_s(self, awaits_saves: bool = True) -> float:
        """The next tick, sample, end of passing or known end of a transfer; of a save only with ``awaits_saves``."""
        transfer_s = self.manager.memory.link.next_completion_s(saves=awaits_saves)
        known_s = min(self._next_tick_s(), self._next_sample_s(), self.scheduler.next_deadline_s())
        return known_s if transfer_s is None else min(known_s, transfer_s)

    def _next_tick_s(self) -> float:
        return self._num_ticks * self._tick_s

    def _next_sample_s(self) -> float:
        interval_s = self.config.timeline_s
        return math.inf if interval_s is None else self._num_samples * interval_s

    def catch_up(self) -> None:
        """Does the ticks and samples that have come due. A real step may span several ticks: they are done as one."""
        now_s = self.clock.now()
        if now_s >= self._next_tick_s():
            self.manager.tick(len(self.scheduler.running))
            self._num_ticks = math.floor(now_s / self._tick_s) + 1
            if self._next_tick_s() <= now_s:
                self._num_ticks += 1
        if now_s >= self._next_sample_s():
            self.timeline.sample(now_s, len(self.scheduler.waiting), len(self.scheduler.running))
            while self._next_sample_s() <= now_s:
                self._num_samples += 1

    def _wants_room(self, batch: StepBatch) -> bool:
        """Whether blocks that come free before the steps of ``batch`` are over would be taken by others. Whoever is
        admitted while a step computes may be one of them."""
        return self.executor.while_busy is not None or self.scheduler.wants_room(batch)

    def _max_steps(self, batch: StepBatch, wants_room: bool) -> int:
        """How many identical decode steps there are before a sequence ends or needs a block that it may not get. A
        block that fills may turn out to be known, and so come free."""
        if batch.prefill or not self.config.jump or not self.scheduler.is_settled(batch):
            return 1
        if True in [one.may_stop for one in batch.decode]:
            return 1
        to_end = min([one.max_tokens - one.num_tokens for one in batch.decode])
        spare = 0 if wants_room else self.manager.memory.region(KV).num_free
        rooms = sorted([self._room(one) for one in batch.decode])
        # Nobody fills two blocks in one go.
        return min(to_end, rooms[spare] if spare < len(rooms) else rooms[0] + self.config.block_tokens)

    def _room(self, sequence: Sequence) -> int:
        """Tokens that fit into the blocks of ``sequence`` yet."""
        return len(sequence.block_table) * self.config.block_tokens - sequence.num_computed

    def _book_full_blocks(self, decode: list[Sequence], step_ends: list[float]) -> None:
        """Shares the blocks that have filled before the last of several steps and hands out the next ones, step by
        step: as it would have gone one step at a time."""
        filled: dict[int, list[Sequence]] = {}
        for sequence in decode:
            if (room := self._room(sequence)) < len(step_ends):
                filled.setdefault(room, []).append(sequence)
        for num_steps in sorted(filled):
            for sequence in filled[num_steps]:
                sequence.num_computed += num_steps
                self.manager.commit(sequence, step_ends[num_steps - 1])
            for sequence in filled[num_steps]:
                self.manager.grow(sequence)

    def _commit(self, batch: StepBatch, result: StepResult) -> None:
        """Books the computed tokens: appends, shares full blocks, ends what is complete."""
        step_ends, block_tokens = result.step_ends, self.config.block_tokens
        if len(step_ends) > 1:
            self._book_full_blocks(batch.decode, step_ends)
        sampled, logprobs = chain(result.tokens, repeat(0)), chain(result.logprobs, repeat(None))
        for sequence, token, likely in zip(batch.decode, sampled, logprobs, strict=False):
            sequence.num_computed = sequence.num_tokens - 1 + len(step_ends)
            if sequence.num_computed % block_tokens == 0:
                self.manager.commit(sequence)
            self._append(sequence, step_ends, token, likely)
        for chunk in batch.prefill:
            yields_token = chunk.is_last
            chunk.sequence.num_computed += chunk.num_tokens
            self.manager.commit(chunk.sequence)
            if yields_token:
                self._append(chunk.sequence, step_ends, next(sampled), next(logprobs))

    def _append(self, sequence: Sequence, step_ends: list[float], token: int, logprobs: TokenLogprobs | None) -> None:
        if token == NO_TOKEN and sequence.recorded_output is None:
            sequence.record.reason = NOT_FINITE
            self.scheduler.remove(sequence)
            self._close(sequence, SequenceState.FAILED)
            return
        sequence.append(token, len(step_ends))
        if logprobs is not None:
            sequence.logprobs.append(logprobs)
        sequence.token_times += step_ends
        record = sequence.record
        if record.first_token_s is None:
            record.first_token_s = step_ends[0]
            record.prefill_s += step_ends[0] - sequence.phase_start_s
        if sequence.is_complete:
            self.scheduler.remove(sequence)
            self._close(sequence, SequenceState.FINISHED)


def _raise_error(load: Transfer) -> None:
    if load.error is not None:
        raise load.error
