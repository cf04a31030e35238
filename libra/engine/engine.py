"""The step loop."""

import math

import numpy as np

from libra.cache.manager import CacheManager
from libra.clock import Clock
from libra.engine.config import EngineConfig
from libra.engine.executor import Executor, StepBatch, StepResult
from libra.engine.record import RequestRecord
from libra.engine.scheduler import Scheduler
from libra.engine.sequence import SamplingParams, Sequence, SequenceState
from libra.engine.timeline import Timeline
from libra.request import Request
from libra.tokens import prompt_tokens, recorded_output, segment_tokens


class Engine:
    """Requests in, records out. One thread; the clock, the executor and the manager's link decide whether it is real.

    ``records`` receives each request's record when it finishes, is rejected or is aborted.
    """

    def __init__(
        self, config: EngineConfig, clock: Clock, executor: Executor, manager: CacheManager, vocab_size: int
    ) -> None:
        self.config = config
        self.clock = clock
        self.executor = executor
        self.manager = manager
        self.scheduler = Scheduler(config, manager)
        self.timeline = Timeline(manager)
        self.records: list[RequestRecord] = []
        self.num_steps = 0
        self._vocab_size = vocab_size
        self._tick_s = manager.memory.interval_s
        self._num_ticks = 0
        self._num_samples = 0

    # ---- requests --------------------------------------------------------------------------------------------------

    def submit(self, request: Request, sampling: SamplingParams | None = None) -> Sequence:
        """Queues a request, or rejects it at once when it can never fit.

        With ``sampling`` the model's tokens are kept. Without, the request is replayed: its recorded answer is decoded
        (a named filler where the trace records none), so that every run of a trace sees the same tokens.
        """
        output = None
        if sampling is None:
            output = recorded_output(request, self._vocab_size)
            if output is None:
                output = segment_tokens(f"output of request {request.id}", 0, request.output_tokens, self._vocab_size)
        tokens = np.zeros(request.num_prompt_tokens + request.output_tokens, dtype=np.uint32)
        tokens[: request.num_prompt_tokens] = prompt_tokens(request, self._vocab_size)
        sequence = Sequence(request, tokens, self.config.block_tokens, output, sampling or SamplingParams())
        reason = self.manager.reason_never_fits(sequence.adapter_id, sequence.max_tokens)
        if request.num_prompt_tokens < 1 or request.output_tokens < 1:
            reason = "needs at least one prompt token and one output token"
        if reason is None:
            self.scheduler.add(sequence)
        else:
            sequence.record.reason = reason
            self._close(sequence, SequenceState.REJECTED)
        return sequence

    def abort(self, sequence: Sequence) -> None:
        """Ends a sequence early, wherever it is; what it held is free for others when this returns;
        loads in flight go on without it."""
        if sequence.state in (SequenceState.WAITING, SequenceState.LOADING, SequenceState.RUNNING):
            self.scheduler.remove(sequence)
            self._close(sequence, SequenceState.ABORTED)

    def _close(self, sequence: Sequence, state: SequenceState) -> None:
        sequence.state = state
        record = sequence.record
        record.status = state.value
        record.token_times = sequence.token_times
        record.output_tokens = sequence.num_output_tokens
        if state is not SequenceState.REJECTED:
            record.finish_s = self.clock.now()
        self.records.append(record)

    # ---- steps -----------------------------------------------------------------------------------------------------

    def step(self, next_arrival_s: float = math.inf) -> bool:
        """Runs one step, or several identical decode steps up to the next event. False when nothing can be computed
        before a transfer ends or a request arrives."""
        self.manager.collect()
        self.catch_up()
        batch = self.scheduler.schedule()
        if not batch:
            return False
        result = self.executor.execute(batch, self._max_steps(batch), min(next_arrival_s, self.next_event_s()))
        self.num_steps += len(result.step_ends)
        self._commit(batch, result)
        return True

    def next_event_s(self) -> float:
        """The next tick, sample, end of passing or known end of a transfer."""
        transfer_s = self.manager.memory.link.next_completion_s()
        known_s = min(self._next_tick_s(), self._next_sample_s(), self.scheduler.next_deadline_s())
        return known_s if transfer_s is None else min(known_s, transfer_s)

    def _next_tick_s(self) -> float:
        return self._num_ticks * self._tick_s

    def _next_sample_s(self) -> float:
        return self._num_samples * self.config.timeline_s

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
            self._num_samples = math.floor(now_s / self.config.timeline_s) + 1
            if self._next_sample_s() <= now_s:
                self._num_samples += 1

    def _max_steps(self, batch: StepBatch) -> int:
        """How many identical decode steps there are before a sequence ends or fills its last block."""
        if batch.prefill or not self.config.jump or not self.scheduler.is_settled(batch):
            return 1
        block_tokens = self.config.block_tokens
        return min(
            min(s.max_tokens - s.num_tokens, len(s.block_table) * block_tokens - s.num_computed) for s in batch.decode
        )

    def _commit(self, batch: StepBatch, result: StepResult) -> None:
        """Books the computed tokens: appends, shares full blocks, ends what is complete."""
        sampled = iter(result.tokens)
        for sequence in batch.decode:
            sequence.num_computed += len(result.step_ends)
            if sequence.num_computed % self.config.block_tokens == 0:
                self.manager.commit(sequence)
            self._append(sequence, result.step_ends, next(sampled, 0))
        for chunk in batch.prefill:
            yields_token = chunk.is_last
            chunk.sequence.num_computed += chunk.num_tokens
            self.manager.commit(chunk.sequence)
            if yields_token:
                self._append(chunk.sequence, result.step_ends, next(sampled, 0))

    def _append(self, sequence: Sequence, step_ends: list[float], token: int) -> None:
        sequence.append(token, len(step_ends))
        sequence.token_times.extend(step_ends)
        record = sequence.record
        if record.first_token_s is None:
            record.first_token_s = step_ends[0]
            record.prefill_s += step_ends[0] - sequence.phase_start_s
        if sequence.is_complete:
            self.scheduler.remove(sequence)
            self._close(sequence, SequenceState.FINISHED)
