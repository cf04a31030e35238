"""Orders of the waiting queue: by rank, in many queues, by response ratio, and what all owe to those who wait."""

from collections import deque
from collections.abc import Sequence as Items
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra.cache.fastlibra import FASTLIBRA
from libra.clock import VirtualClock
from libra.engine.executor import Executor, StepBatch, StepResult
from libra.engine.queueing_multi import MultiQueue, cutoffs_between, k_means
from libra.engine.queueing_rank import RankAware, fit_step_model
from libra.engine.queueing_ratio import ResponseRatio
from libra.engine.roofline import RooflineExecutor
from libra.engine.sequence import Sequence
from libra.errors import LibraError
from libra.spec import AdapterSpec
from tests.libra.builders import PROFILE, TINY, adapters, build_engine, request, sequence_of

RANKS = {"a8": 8, "a16": 16, "a64": 64}


class TimedSteps(Executor):
    """Times steps by a formula over the ranks of the batch."""

    def __init__(self, padded: bool, base_s: float = 1.0, per_load_s: float = 0.01) -> None:
        self.padded, self.base_s, self.per_load_s = padded, base_s, per_load_s

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        raise NotImplementedError

    def prefill_seconds(self, num_tokens: int) -> float:
        raise NotImplementedError

    def step_seconds(self, adapters: Items[str | None], tokens_each: int) -> float:
        ranks = [rank_of(adapter) for adapter in adapters]
        load = len(ranks) * max(ranks) if self.padded else sum(ranks)
        return (self.base_s + self.per_load_s * load) * tokens_each

    def add_adapter(self, spec: AdapterSpec) -> None:
        raise NotImplementedError

    def remove_adapter(self, adapter_id: str) -> None:
        raise NotImplementedError

    def describe(self) -> str:
        return "timed by a formula"


def rank_of(adapter_id: str | None) -> int:
    return 0 if adapter_id is None else RANKS[adapter_id]


def asking(number: int, adapter: str | None, prompt: int = 4, output: int = 2) -> Sequence:
    return sequence_of(request(number, [1] * prompt, [1] * output, adapter, arrival_s=float(number)))


# ---- rank-aware ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [True, False])
def test_the_model_of_the_kernels_at_hand_is_found_with_its_coefficients(padded: bool) -> None:
    model = fit_step_model(TimedSteps(padded), rank_of, list(RANKS), tokens_each=1)
    assert model.padded is padded
    assert (model.slope, model.offset, model.r_squared) == pytest.approx((0.01, 1.0, 1.0))
    assert model.added_seconds([8, 16], 64) == pytest.approx(0.01 * (3 * 64 - 2 * 16 if padded else 64))


def test_a_profile_is_fitted_well_and_a_device_without_one_is_refused() -> None:
    specs = adapters(1, 4, 16)
    roofline = RooflineExecutor(VirtualClock(), PROFILE, TINY, specs)
    ranks: dict[str | None, int] = {spec.adapter_id: spec.rank for spec in specs}
    model = fit_step_model(roofline, ranks.__getitem__, [spec.adapter_id for spec in specs], tokens_each=256)
    assert model.r_squared > 0.5
    assert model.slope > 0
    with pytest.raises(LibraError, match="rank_aware"):
        Executor.step_seconds(TimedSteps(True), ["a8"], 1)


def rank_aware(max_pass_s: float = 1.0, **options: float) -> RankAware:
    return RankAware(TimedSteps(True, **options), rank_of, list(RANKS), max_pass_s, max_scan=256)


def test_what_adds_least_to_the_batch_comes_first_and_equals_keep_their_order() -> None:
    queueing = rank_aware(base_s=1e6)
    large, small, base, small_too = waiting = [asking(n, a) for n, a in enumerate(("a64", "a8", None, "a8"))]
    assert list(queueing.order(deque(waiting), 0.0)) == [base, small, small_too, large]
    # Beside one of rank 64 all cost the same with kernels that pad.
    queueing.admitted(asking(9, "a64"))
    assert list(queueing.order(deque(waiting), 0.0)) == waiting


def test_a_request_that_would_break_the_slo_waits_until_the_batch_is_smaller() -> None:
    # 1 s without adapters, so 1.5 s at most: a load of 50, which three of rank 16 keep to and one of 64 does not.
    queueing = rank_aware()
    running, large, small = asking(0, "a16"), asking(1, "a64"), asking(2, "a16")
    waiting = deque([large, small])
    assert list(queueing.order(waiting, 0.0)) == [small, large], "alone, anyone may run"
    queueing.admitted(running)
    assert list(queueing.order(waiting, 0.0)) == [small]
    queueing.left(running)
    assert list(queueing.order(waiting, 0.0)) == [small, large]


def test_nobody_is_passed_for_longer_than_allowed_and_the_preempted_come_first() -> None:
    queueing = rank_aware(max_pass_s=2.0)
    large, small, preempted = asking(0, "a64"), asking(1, "a8"), asking(2, "a64")
    large.first_passed_s = 5.0
    preempted.record.preemptions = 1
    waiting = deque([preempted, large, small])
    assert list(queueing.order(waiting, 6.9)) == [preempted, small, large]
    assert list(queueing.order(waiting, 7.0)) == [preempted, large, small]


# ---- many queues ---------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(values=st.lists(st.floats(0, 1, width=16), min_size=1, max_size=40))
def test_every_value_is_nearest_to_the_centroid_of_its_queue(values: list[float]) -> None:
    sizes = np.array(values)
    distinct = len(np.unique(sizes))
    cutoffs = cutoffs_between(sizes)
    assert len(cutoffs) == min(4, distinct) - 1
    assert list(cutoffs) == sorted(cutoffs)
    if distinct > 1:
        centroids = k_means(sizes, min(4, distinct))
        queue = np.searchsorted(cutoffs, sizes, side="right")
        assert (np.abs(sizes - centroids[queue]) <= np.abs(sizes[:, None] - centroids).min(axis=1) + 1e-12).all()


def test_the_sum_of_squares_is_nearly_that_of_the_best_split_in_two() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        values = np.sort(np.concatenate([generator.normal(0, 1, 20), generator.normal(6, 1, 10)]))
        centroids = k_means(values, 2)
        found = ((values[:, None] - centroids) ** 2).min(axis=1).sum()
        splits = [values[:cut].var() * cut + values[cut:].var() * (len(values) - cut) for cut in range(1, len(values))]
        assert min(splits) <= found * (1 + 1e-9) <= 1.1 * min(splits)


class Served:
    """A MultiQueue over 100 tokens, and the sequences that wait for it."""

    def __init__(self, max_pass_s: float = float("inf")) -> None:
        self.clock = VirtualClock()
        self.queueing = MultiQueue(self.clock, 100, rank_of, max_pass_s, max_scan=256)
        self.waiting: deque[Sequence] = deque()

    def ask(self, *sequences: Sequence) -> None:
        for sequence in sequences:
            self.waiting.append(sequence)
            self.queueing.joined(sequence)

    def order(self) -> list[Sequence]:
        return list(self.queueing.order(self.waiting, self.clock.now()))

    def admit(self, sequence: Sequence) -> None:
        self.waiting.remove(sequence)
        self.queueing.admitted(sequence)

    def finish(self, sequence: Sequence) -> None:
        sequence.num_tokens = sequence.max_tokens
        self.queueing.left(sequence)


def small(number: int) -> Sequence:
    return asking(number, "a8", prompt=4, output=1)


def large(number: int) -> Sequence:
    return asking(number, "a64", prompt=40, output=20)


def test_before_anything_is_known_all_share_one_queue_and_its_tokens() -> None:
    served = Served()
    first, second, third = large(0), large(1), small(2)
    served.ask(first, second, third)
    assert served.order() == [first], "100 tokens hold one of 60, and the small one stands behind the second"
    served.admit(first)
    assert served.order() == []
    served.finish(first)
    assert served.order() == [second, third]


def test_once_classes_are_known_small_requests_do_not_wait_behind_large_ones() -> None:
    served = Served()
    for number in range(6):
        sequence = large(number) if number % 2 else small(number)
        served.ask(sequence)
        assert sequence in served.order()
        served.admit(sequence)
        served.clock.advance_to(served.clock.now() + 0.5)
        served.finish(sequence)
    served.clock.advance_to(4.0)
    big, bigger, little = large(10), large(11), small(12)
    served.ask(big, bigger, little)
    assert served.order() == [little, big]
    served.admit(big)
    served.admit(little)
    assert served.order() == []
    served.finish(little)
    served.finish(big)
    assert served.order() == [bigger]


def test_who_has_been_offered_stays_offered_and_the_preempted_come_back_at_the_head() -> None:
    served = Served()
    first, second = small(0), small(1)
    served.ask(first, second)
    assert served.order() == [first, second]
    served.admit(second)
    second.record.preemptions = 1
    served.queueing.left(second)
    served.waiting.appendleft(second)
    served.queueing.joined(second)
    assert served.order() == [second, first]
    served.queueing.left(first)
    served.waiting.remove(first)
    assert served.order() == [second]


def test_one_that_has_been_passed_for_long_enough_comes_first_whatever_its_queue() -> None:
    served = Served(max_pass_s=1.0)
    running, held_back = large(0), large(1)
    served.ask(running, held_back)
    assert served.order() == [running]
    served.admit(running)
    held_back.first_passed_s = 0.0
    served.clock.advance_to(0.9)
    assert served.order() == []
    served.clock.advance_to(1.0)
    assert served.order() == [held_back]
    served.admit(held_back)
    assert served.order() == []


@settings(max_examples=40)
@given(data=st.data())
def test_whatever_comes_and_goes_something_is_offered_when_nothing_runs(data: st.DataObject) -> None:
    served, running = Served(), list[Sequence]()
    for number in range(data.draw(st.integers(1, 60))):
        served.clock.advance_to(served.clock.now() + data.draw(st.sampled_from([0.0, 0.4, 30.0])))
        action = data.draw(st.sampled_from(["ask", "ask", "admit", "finish", "abort"]))
        if action == "ask":
            served.ask(data.draw(st.sampled_from([small, large]))(number))
        elif action == "admit" and (offered := served.order()):
            running.append(data.draw(st.sampled_from(offered)))
            served.admit(running[-1])
        elif action == "finish" and running:
            served.finish(running.pop(0))
        elif action == "abort" and served.waiting:
            served.queueing.left(served.waiting.popleft())
        offered = served.order()
        assert set(offered) <= set(served.waiting)
        assert len(offered) == len(set(offered))
        assert running or not served.waiting or offered
        spent = sum(sequence.max_tokens for sequence in (*running, *offered))
        assert spent <= 100 or len(served.queueing._classes.quotas) > 1


# ---- in the scheduler ----------------------------------------------------------------------------------------------


def test_a_cheap_request_overtakes_a_dear_one_within_what_the_policy_allows() -> None:
    for max_pass_s, overtakes in ((10.0, True), (0.0, False)):
        policy = replace(FASTLIBRA, scheduler="rank_aware", max_pass_s=max_pass_s)
        engine = build_engine(policy, hbm_blocks=60, specs=adapters(1, 8))
        for number in range(3):
            engine.submit(request(number, prompt=range(number, number + 9), output=[1] * 9, adapter="a0"))
        dear = engine.submit(request(7, prompt=range(50, 60), adapter="a1"))
        cheap = engine.submit(request(8, prompt=range(70, 80), adapter="a0"))
        order = list(engine.scheduler.queueing.order(engine.scheduler.waiting, 0.0))
        assert (order.index(cheap) < order.index(dear)) is overtakes
        while engine.scheduler.has_work:
            if not engine.step():
                engine.clock.advance_to(engine.next_event_s())
        assert [record.status for record in engine.records] == ["finished"] * 5


# ---- response ratio ------------------------------------------------------------------------------------------------


class Waiters:
    """A queue of requests of (adapter, blocks to compute, arrival), before a cache that lacks adapters of ``missing``
    blocks."""

    def __init__(self, missing: dict[str | None, int], *wanted: tuple[str | None, int, float]) -> None:
        self.missing = missing
        self.blocks = {number: blocks for number, (_, blocks, _) in enumerate(wanted)}
        self.waiting = deque(
            sequence_of(request(number, [1, 2], [1], adapter, arrival_s=arrival_s))
            for number, (adapter, _, arrival_s) in enumerate(wanted)
        )
        self.queueing = ResponseRatio(
            blocks_to_compute=lambda sequence: self.blocks[sequence.request.id],
            missing_blocks=lambda adapter: self.missing.get(adapter, 0),
            max_pass_s=10.0,
            max_scan=256,
        )
        for sequence in self.waiting:
            self.queueing.joined(sequence)

    def order(self, now_s: float) -> list[int]:
        return [sequence.request.id for sequence in self.queueing.order(self.waiting, now_s)]


def test_who_takes_little_comes_first_and_who_takes_much_when_it_has_waited_in_proportion() -> None:
    queue = Waiters({}, ("a0", 4, 0.0), (None, 1, 3.0))
    assert queue.order(3.5) == [0, 1]
    assert queue.order(4.5) == [1, 0]
    assert Waiters({}, ("a0", 4, 0.0), (None, 1, 1.0)).order(2.0) == [1, 0]


def test_the_blocks_of_a_missing_adapter_are_divided_among_all_who_wait_for_it() -> None:
    one = Waiters({"a1": 3}, ("a1", 1, 0.0), ("a0", 2, 0.0))
    assert one.order(1.0) == [1, 0]
    many = Waiters({"a1": 3}, ("a1", 1, 0.0), ("a0", 3, 0.0), ("a1", 1, 0.0))
    assert many.order(1.0) == [0, 2, 1]
    many.queueing.admitted(many.waiting.pop())
    assert many.order(1.0) == [1, 0]
    many.missing = {}
    assert many.order(1.0) == [0, 1]


def test_equal_requests_keep_the_order_of_arrival() -> None:
    assert Waiters({}, *[("a0", 8, 0.0)] * 4).order(1.0) == [0, 1, 2, 3]


def test_what_is_to_be_computed_is_asked_anew_when_a_request_of_the_adapter_has_left_kv_behind() -> None:
    queue = Waiters({}, ("a0", 3, 0.0), ("a1", 2, 0.0))
    assert queue.order(1.0) == [1, 0]
    queue.blocks = {0: 1, 1: 2}
    assert queue.order(1.0) == [1, 0]
    queue.queueing.left(sequence_of(request(9, [1, 2], [1], "a0")))
    assert queue.order(1.0) == [0, 1]


def test_who_has_been_passed_for_long_enough_comes_before_everybody() -> None:
    queue = Waiters({}, ("a0", 9, 0.0), ("a1", 1, 0.0))
    queue.waiting[0].first_passed_s = 1.0
    assert queue.order(10.9) == [1, 0]
    assert queue.order(11.0) == [0, 1]
