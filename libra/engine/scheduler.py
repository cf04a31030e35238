"""Who computes what in the next step: continuous batching with chunked prefill and adapter-aware admission."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from libra.cache.holding import Admission, Holding
from libra.cache.manager import CacheManager
from libra.engine.cold_start import first_layer_s
from libra.engine.config import EngineConfig
from libra.engine.executor import PrefillChunk, StepBatch
from libra.engine.link import Direction, Transfer
from libra.engine.queueing import Queueing, has_waited
from libra.engine.sequence import Sequence, SequenceState


class Scheduler:
    """Queues and the batch of each step. Policy-blind: it asks the cache manager and reads the policy's data.

    A sequence is in exactly one of ``waiting`` (by arrival, preempted ones first; ``queueing`` says who is tried),
    ``loading`` (admitted, its adapter or KV on the way) and ``running`` (in the order they became ready).
    """

    def __init__(self, config: EngineConfig, manager: CacheManager, queueing: Queueing) -> None:
        self.config = config
        self.manager = manager
        self.queueing = queueing
        self.waiting: deque[Sequence] = deque()
        self.loading: list[Sequence] = []
        self.running: list[Sequence] = []
        self._last = StepBatch()
        self.num_preemptions = 0
        self.stall_s = 0.0
        # How long the last step took, set by the engine: the next is expected to take as long.
        self.step_s = 0.0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.loading or self.running)

    def schedule(self) -> StepBatch:
        """The next step's batch; empty when everybody waits for a transfer. Admits, preempts and starts loads."""
        if self._repeats(self._last):
            self.manager.look_ahead(self.waiting)
            return self._last
        batch = self._last = StepBatch()
        preemptions = self.num_preemptions
        self._start_loaded()
        budget = self._schedule_decodes(batch, self.config.max_num_batched_tokens)
        if len(self.running) > len(batch.decode):
            budget = self._schedule_prefills(batch, self.running, budget)
        if self.num_preemptions == preemptions:
            budget = self._admit(batch, budget)
            self._await_loads(batch, budget)
        self.manager.look_ahead(self.waiting)
        if self.manager.policy.starts_cold:
            self._note_cold(batch)
        return batch

    def _repeats(self, batch: StepBatch) -> bool:
        """Whether the next step is ``batch``, the last one, again, as most are: what the rest of ``schedule`` would
        come to. Gives its sequences the blocks they need."""
        if not batch.decode or batch.prefill or self.loading or batch.decode != self.running or self._may_admit():
            return False
        block_tokens = self.config.block_tokens
        full = [one for one in batch.decode if one.num_computed >= len(one.block_table) * block_tokens]
        return all(self.manager.grow(sequence) for sequence in full)

    def is_settled(self, batch: StepBatch) -> bool:
        """Whether the step after ``batch`` is the same unless something happens before: nobody can be admitted, no
        running sequence sits out for want of a block that can be had since, and no load may be worth a wait by then."""
        if self.loading and self.manager.policy.awaits_loads:
            return False
        sitting_out = len(self.running) - len(batch.decode) - len(batch.prefill)
        return not self._may_admit() and not (sitting_out and self.manager.can_grow())

    def wants_room(self, batch: StepBatch) -> bool:
        """Whether anybody waits, or sits out of ``batch``, who might have use for blocks that come free."""
        return bool(self.waiting) or len(self.running) > len(batch.decode) + len(batch.prefill)

    # ---- running sequences -----------------------------------------------------------------------------------------

    def _schedule_decodes(self, batch: StepBatch, budget: int) -> int:
        """One token for every sequence past its prefill; preempts the youngest when a block is nowhere to be had."""
        starts_cold, block_tokens = self.manager.policy.starts_cold, self.config.block_tokens
        for sequence in list(self.running):
            if not sequence.is_decoding or sequence.state is not SequenceState.RUNNING:
                continue
            if budget == 0:
                return 0
            if starts_cold and self.manager.holdings[sequence].adapter_is_coming:
                continue
            has_room = sequence.num_computed < len(sequence.block_table) * block_tokens
            if has_room or self._make_room(sequence, batch):
                batch.decode.append(sequence)
                budget -= 1
        return budget

    def _make_room(self, sequence: Sequence, batch: StepBatch) -> bool:
        while not self.manager.grow(sequence):
            if self.manager.block_will_come():
                return False
            youngest = self.running[-1]
            self.preempt(youngest)
            if youngest in batch.decode:
                batch.decode.remove(youngest)
            if youngest is sequence:
                return False
        return True

    @staticmethod
    def _schedule_prefills(batch: StepBatch, sequences: Iterable[Sequence], budget: int) -> int:
        """Chunks of prompts, first ready first, within ``budget`` tokens."""
        for sequence in sequences:
            if budget == 0:
                break
            if sequence.is_decoding:
                continue
            count = min(sequence.num_tokens - sequence.num_computed, budget)
            batch.prefill.append(PrefillChunk(sequence, count))
            budget -= count
        return budget

    def preempt(self, sequence: Sequence) -> None:
        """Sends a running sequence back to the head of the queue; its full blocks stay as history."""
        now_s = self.manager.memory.clock.now()
        self.manager.release(sequence)
        self.running.remove(sequence)
        self.waiting.appendleft(sequence)
        sequence.state = SequenceState.WAITING
        sequence.record.preemptions += 1
        self.queueing.left(sequence)
        self.queueing.joined(sequence)
        self.num_preemptions += 1
        if sequence.record.first_token_s is None:
            sequence.record.prefill_s += now_s - sequence.phase_start_s
            sequence.phase_start_s = now_s

    # ---- admission -------------------------------------------------------------------------------------------------

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)
        self.queueing.joined(sequence)

    def _candidates(self) -> Iterator[Sequence]:
        """Who may be tried now, best first."""
        return islice(self.queueing.order(self.waiting, self.manager.memory.clock.now()), self.config.max_scan)

    def admit_ahead(self) -> None:
        """Admits while a step computes: loads and saves need not wait for its end. Nobody is admitted for whom the next
        step has no tokens left."""
        started = [*self.running, *self.loading]
        ahead = sum([one.num_tokens - one.num_computed for one in started if not one.is_decoding])
        self._admit(StepBatch(), max(self.config.max_num_batched_tokens - ahead, 0))

    def _admit(self, batch: StepBatch, budget: int) -> int:
        """Admits from the queue in order; requests may pass one that does not fit for ``max_pass_s`` at most. Returns
        what is left of the step's ``budget`` of tokens."""
        if not self._may_admit():
            return budget
        blocked: list[Sequence] = []
        for sequence in list(self._candidates()):
            if budget == 0 or len(self.running) + len(self.loading) >= self.config.max_num_seqs:
                break
            passed_enough = self._passed_enough(sequence)
            if passed_enough:
                self._withdraw_claims_behind(sequence, blocked)
            if self._try_admit(sequence):
                self._note_passed(sequence)
                self._start(sequence)
                budget = self._schedule_started(batch, self._start_loaded(), budget)
            else:
                if passed_enough:
                    break
                if not self.manager.may_be_passed(sequence):
                    self._withdraw_claims_behind(sequence, blocked)
                    break
                blocked.append(sequence)
        return budget

    def _await_loads(self, batch: StepBatch, budget: int) -> None:
        """Holds the step back for the loads from host memory, and lets those who needed them join it, where that saves
        them more than it costs the others: each who joins gains a step less the wait, each other one loses the wait."""
        manager, link, clock = self.manager, self.manager.memory.link, self.manager.memory.clock
        if not (manager.policy.awaits_loads and batch and self.loading and budget):
            return
        pending = [manager.holdings[sequence].pending_loads() for sequence in self.loading]
        joining = [loads for loads in pending if all(load.direction is Direction.IN for load in loads)]
        wait_s, others = link.queue_seconds(Direction.IN, 0), len(batch.decode) + len(batch.prefill)
        if len(joining) * (self.step_s - wait_s) <= others * wait_s:
            return
        began_s = clock.now()
        for load in chain.from_iterable(joining):
            link.wait(load)
        manager.collect()
        self.stall_s += clock.now() - began_s
        self._schedule_started(batch, self._start_loaded(), budget)

    def _may_admit(self) -> bool:
        """Whether anybody in the queue has not been refused in this state of the cache and may be tried, or stands
        before claims that must be withdrawn."""
        if not self.waiting or len(self.running) + len(self.loading) >= self.config.max_num_seqs:
            return False
        claims_ahead = 0
        for sequence in self._candidates():
            if self.manager.worth_asking(sequence):
                return True
            claims_ahead += sequence in self.manager.claims
            if self._passed_enough(sequence) or not self.manager.may_be_passed(sequence):
                return len(self.manager.claims) > claims_ahead
        return False

    def next_deadline_s(self) -> float:
        """When the next waiting request has been passed for long enough, so that it comes first and claims behind it
        are withdrawn, or the next loading one may start although its adapter is still coming."""
        now_s, limit_s = self.manager.memory.clock.now(), self.manager.policy.max_pass_s
        deadlines: list[float] = []
        if self.manager.policy.starts_cold:
            deadlines += [self.manager.holdings[sequence].starts_s for sequence in self.loading]
        if self.manager.claims or self.queueing.reorders:
            window = islice(self.waiting, self.config.max_scan)
            deadlines += [s.first_passed_s + limit_s for s in window if s.first_passed_s is not None]
        return min((deadline_s for deadline_s in deadlines if deadline_s > now_s), default=math.inf)

    def _schedule_started(self, batch: StepBatch, started: list[Sequence], budget: int) -> int:
        """Lets sequences that have just begun to run join ``batch``. One whose history covers all but its last token,
        as after a preemption, decodes at once."""
        for sequence in started:
            if sequence.is_decoding and budget > 0 and not self.manager.holdings[sequence].adapter_is_coming:
                batch.decode.append(sequence)
                budget -= 1
        return self._schedule_prefills(batch, started, budget)

    def _withdraw_claims_behind(self, sequence: Sequence, ahead: list[Sequence]) -> None:
        """Takes back the claims of everybody but those ``ahead`` of ``sequence``: nobody behind it is admitted before
        it, so what they keep from it would be kept for ever."""
        behind = [other for other in self.manager.claims if other is not sequence and other not in ahead]
        for other in behind:
            self.manager.release_claim(other)
        if behind:
            self.manager.memory.note_room()

    def _try_admit(self, sequence: Sequence) -> bool:
        now_s = self.manager.memory.clock.now()
        record = sequence.record
        if not record.adapter_tier:
            record.adapter_tier = self.manager.adapter_tier(sequence.adapter_id)
        if not self.manager.worth_asking(sequence):
            return False
        outcome = self.manager.admit(sequence)
        # After the first token, as after a preemption, a wait is no part of TTFT.
        if sequence.evict_wait_since_s is not None and record.first_token_s is None:
            record.evict_wait_s += now_s - sequence.evict_wait_since_s
        sequence.evict_wait_since_s = now_s if outcome is Admission.SAVING else None
        return outcome is Admission.ADMITTED

    def _passed_enough(self, sequence: Sequence) -> bool:
        return has_waited(sequence, self.manager.memory.clock.now(), self.manager.policy.max_pass_s)

    def _note_passed(self, admitted: Sequence) -> None:
        """Everybody who came before ``admitted`` and still waits has been passed."""
        for sequence in self.waiting:
            if sequence is admitted:
                return
            if sequence.first_passed_s is None:
                sequence.first_passed_s = self.manager.memory.clock.now()

    def _start(self, sequence: Sequence) -> None:
        """Takes an admitted sequence out of the queue and on to loading."""
        clock, holding = self.manager.memory.clock, self.manager.holdings[sequence]
        self.waiting.remove(sequence)
        self.queueing.admitted(sequence)
        record, now_s = sequence.record, clock.now()
        if record.first_token_s is None:
            record.queue_s += now_s - sequence.phase_start_s
            sequence.phase_start_s = now_s
        if record.admitted_s is None:
            record.admitted_s = now_s
            record.hbm_hit_tokens = holding.hbm_hit_blocks * self.config.block_tokens
            record.host_hit_tokens = holding.host_hit_blocks * self.config.block_tokens
        if self.manager.policy.adapter_load == "blocking" and holding.adapter_load is not None:
            self.manager.memory.link.wait(holding.adapter_load)
            self.manager.collect()
            self.stall_s += clock.now() - now_s
        if holding.adapter_is_coming and self.manager.policy.starts_cold and holding.adapter_load is not None:
            self._start_early(holding, holding.adapter_load)
        sequence.state = SequenceState.LOADING
        self.loading.append(sequence)

    def _start_early(self, holding: Holding, load: Transfer) -> None:
        """Lets a sequence start before its adapter is there: at once, or when the first layer is."""
        memory, policy = self.manager.memory, self.manager.policy
        holding.arrival = memory.link.arrival(load)
        if policy.cold_start == "cpu_assist":
            holding.starts_s = memory.clock.now()
        elif holding.arrival is not None:
            holding.starts_s = first_layer_s(holding.arrival, self.manager.num_layers)

    def _note_cold(self, batch: StepBatch) -> None:
        """Tells the executor which adapters of ``batch`` are still coming."""
        for chunk in batch.prefill:
            holding = self.manager.holdings[chunk.sequence]
            if holding.adapter_is_coming and holding.arrival is not None and chunk.sequence.adapter_id is not None:
                batch.cold[chunk.sequence.adapter_id] = holding.arrival
        batch.cpu_assist = self.manager.policy.cold_start == "cpu_assist"

    def _start_loaded(self) -> list[Sequence]:
        """Moves sequences whose loads have ended to running, and returns them."""
        started: list[Sequence] = []
        if not self.loading:
            return started
        now_s = self.manager.memory.clock.now()
        for sequence in list(self.loading):
            holding = self.manager.holdings[sequence]
            if not holding.may_start(now_s):
                continue
            self.loading.remove(sequence)
            self.running.append(sequence)
            started.append(sequence)
            sequence.state = SequenceState.RUNNING
            if sequence.record.first_token_s is None:
                adapter_done, ready = holding.load_times(sequence.phase_start_s)
                sequence.record.adapter_load_s += adapter_done - sequence.phase_start_s
                sequence.record.kv_load_s += ready - adapter_done
                sequence.phase_start_s = ready
        return started

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence wherever it is and gives back what it holds."""
        if sequence.state is SequenceState.WAITING:
            self.waiting.remove(sequence)
        elif sequence.state is SequenceState.LOADING:
            self.loading.remove(sequence)
        else:
            self.running.remove(sequence)
        self.queueing.left(sequence)
        self.manager.release(sequence)
