"""Every metric against numbers worked by hand from timestamps."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.columns import BASE_MODEL
from bench.documents import summary_document, to_json
from bench.metrics import MeasureOptions, Metrics, measure, summarise, worst_adapter
from bench.slo import Objectives, parse_objectives
from libra.engine.record import RequestRecord, RunResult
from tests.bench.fabricate import POLICIES, plausible_run, record, result

# TTFT 100, 300 and 200 ms; the second has one token and was cold; the third is the base model's.
FINISHED = [
    record(
        id=0,
        adapter="a",
        first_token_s=0.1,
        finish_s=0.5,
        output_tokens=5,
        token_times=[0.1, 0.2, 0.3, 0.4, 0.5],
        prompt_tokens=100,
        hbm_hit_tokens=50,
        host_hit_tokens=25,
        queue_s=0.04,
        prefill_s=0.06,
    ),
    record(
        id=1,
        adapter="b",
        arrival_s=1.0,
        first_token_s=1.3,
        finish_s=1.3,
        output_tokens=1,
        token_times=[1.3],
        prompt_tokens=200,
        queue_s=0.1,
        evict_wait_s=0.05,
        adapter_load_s=0.1,
        kv_load_s=0.04,
        prefill_s=0.06,
        adapter_tier="host",
    ),
    record(
        id=2,
        adapter=None,
        arrival_s=2.0,
        first_token_s=2.2,
        finish_s=3.2,
        output_tokens=3,
        token_times=[2.2, 2.5, 3.2],
        prompt_tokens=100,
        hbm_hit_tokens=100,
        queue_s=0.1,
        prefill_s=0.1,
        adapter_tier="base",
    ),
]
NEVER = {"first_token_s": None, "finish_s": None, "token_times": []}
OTHERS = [
    record(id=3, adapter="b", arrival_s=3.0, status="rejected", reason="too long", **NEVER),
    record(id=4, adapter="b", arrival_s=4.0, status="aborted", **{**NEVER, "first_token_s": 4.5, "finish_s": 9.0}),
    record(id=5, adapter="b", arrival_s=5.0, status="unfinished", **NEVER),
]
HAND_RUN = result([*FINISHED, *OTHERS])


def metrics_of(run: RunResult, options: MeasureOptions | None = None) -> Metrics:
    return measure(run, options or MeasureOptions()).metrics


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("mean_ttft_ms", 200),
        ("median_ttft_ms", 200),
        ("p90_ttft_ms", 280),
        ("p95_ttft_ms", 290),
        ("p99_ttft_ms", 298),
        ("mean_tpot_ms", 300),
        ("p95_tpot_ms", 480),
        ("mean_itl_ms", 1400 / 6),
        ("median_itl_ms", 100),
        ("p99_itl_ms", 680),
        ("mean_e2el_ms", 2000 / 3),
        ("median_e2el_ms", 500),
        ("mean_queue_ms", 80),
        ("mean_evict_wait_ms", 50 / 3),
        ("mean_adapter_load_ms", 100 / 3),
        ("mean_kv_load_ms", 40 / 3),
        ("mean_prefill_ms", 220 / 3),
        ("request_throughput", 0.3),
        ("output_throughput", 0.9),
        ("total_token_throughput", 40.9),
        ("adapter_hit_rate", 0.5),
        ("kv_hit_rate", 0.375),
        ("kv_host_hit_rate", 0.0625),
        ("cold_request_ratio", 1 / 3),
        ("num_prompts", 6),
        ("completed", 3),
        ("rejected", 1),
        ("aborted", 1),
        ("unfinished", 1),
        ("total_input_tokens", 400),
        ("total_output_tokens", 9),
        ("worst_adapter_mean_ttft_ms", 300),
        ("jain_index", 4 / 5),
        ("request_goodput", None),
        ("slo_attainment", None),
        ("hbm_util", None),
        ("invalid_kv_ratio", None),
        ("prefetch_useful_ratio", None),
        ("duration", 10),
    ],
)
def test_metric_worked_by_hand(name: str, by_hand: float | None) -> None:
    assert metrics_of(HAND_RUN)[name] == (by_hand if by_hand is None else pytest.approx(by_hand))


@pytest.mark.parametrize(
    ("objectives", "good"), [("ttft:250 tpot:400", 1), ("tpot:400", 2), ("ttft:310", 3), ("e2el:400", 1)]
)
def test_goodput_counts_requests_that_meet_every_objective(objectives: str, good: int) -> None:
    figures = metrics_of(HAND_RUN, MeasureOptions(objectives=parse_objectives([objectives])))
    assert figures["request_goodput"] == pytest.approx(good / 10)
    assert figures["slo_attainment"] == pytest.approx(good / 6), "refused and unfinished requests missed theirs"


TIMELINE = {
    "time_s": [0.0, 2.0, 6.0],
    "adapter_blocks": [10.0, 10.0, 10.0],
    "history_blocks": [10.0, 20.0, 30.0],
    "running_blocks": [0.0, 0.0, 0.0],
    "in_flight_blocks": [0.0, 0.0, 0.0],
    "free_blocks": [80.0, 70.0, 60.0],
    "invalid_blocks": [0.0, 5.0, 10.0],
}
COUNTERS = {
    "swap_in_bytes": 7.0,
    "swap_out_bytes": 5.0,
    "prefetch_in_bytes": 4.0,
    "prefetch_used_bytes": 3.0,
    "preemptions": 2.0,
    "stall_s": 1.5,
    "num_steps": 99.0,
}


def test_memory_metrics_are_averages_over_time_not_over_samples() -> None:
    # The samples hold for 2, 4 and 4 s: 60 of 220 block-seconds of history are invalid, 320 of 1000 are in use.
    figures = metrics_of(result(FINISHED, timeline=TIMELINE, counters=COUNTERS))
    assert figures["invalid_kv_ratio"] == pytest.approx(60 / 220)
    assert figures["hbm_util"] == pytest.approx(0.32)


def test_memory_metrics_start_after_the_warm_up() -> None:
    # From 4 s on the samples hold for 0, 2 and 4 s.
    figures = metrics_of(result(FINISHED, timeline=TIMELINE), MeasureOptions(warmup_s=4.0))
    assert figures["invalid_kv_ratio"] == pytest.approx((5 * 2 + 10 * 4) / (20 * 2 + 30 * 4))
    assert figures["hbm_util"] == pytest.approx((30 * 2 + 40 * 4) / 600)


def test_counters_are_passed_on() -> None:
    figures = metrics_of(result(FINISHED, counters=COUNTERS))
    assert [figures[name] for name in ("swap_in_bytes", "swap_out_bytes", "preemptions")] == [7, 5, 2]
    assert [figures[name] for name in ("stall_s", "num_steps", "prefetch_useful_ratio")] == [1.5, 99, 0.75]


def test_warm_up_drops_early_requests_and_its_time() -> None:
    figures = metrics_of(HAND_RUN, MeasureOptions(warmup_s=1.0))
    assert figures["num_prompts"] == 5
    assert figures["mean_ttft_ms"] == pytest.approx(250)
    assert figures["request_throughput"] == pytest.approx(2 / 9)


def test_interrupted_run_leaves_out_what_it_never_reached() -> None:
    late = record(id=9, arrival_s=60.0, status="unfinished", **NEVER)
    cut = result([*FINISHED, late], complete=False)
    assert metrics_of(cut)["unfinished"] == 0
    assert metrics_of(result([*FINISHED, late]))["unfinished"] == 1
    assert not summarise([cut]).complete


def test_run_that_finished_nothing_has_counts_and_no_latencies() -> None:
    figures = metrics_of(result(OTHERS), MeasureOptions(objectives=Objectives(ttft=1)))
    assert figures["mean_ttft_ms"] is None
    assert figures["adapter_hit_rate"] is None
    assert figures["completed"] == 0
    assert figures["slo_attainment"] == 0


def test_adapters_are_measured_apart() -> None:
    summary = summarise([HAND_RUN])
    assert set(summary.per_adapter) == {"a", "b", BASE_MODEL}
    assert summary.per_adapter["a"]["mean_ttft_ms"].mean == pytest.approx(100)
    assert summary.per_adapter["b"]["rejected"].mean == 1
    assert summary.per_adapter[BASE_MODEL]["adapter_hit_rate"].mean is None
    assert summary.worst_adapter == "b"


def test_worst_adapter_is_the_first_of_equals() -> None:
    assert worst_adapter({"b": 5.0, "a": 5.0, "c": 1.0}) == "a"
    assert worst_adapter({}) is None


def test_an_adapter_that_finished_nothing_is_the_worst() -> None:
    assert worst_adapter({"b": 5.0, "c": None, "d": None}) == "c"
    starved = record(id=3, adapter="c", status="rejected", **NEVER)
    summary = summarise([result([*FINISHED, starved])])
    assert (summary.worst_adapter, summary.starved_adapters) == ("c", ["c"])
    assert summary.mean("worst_adapter_mean_ttft_ms") == pytest.approx(300)
    assert summary.mean("jain_index") == pytest.approx(4 / 5)
    assert summarise([HAND_RUN]).starved_adapters == []


def test_the_base_model_is_no_adapter_to_be_fair_to() -> None:
    slow_base = record(id=2, adapter=None, first_token_s=9.0, finish_s=9.5)
    summary = summarise([result([record(), record(id=1, adapter="a1"), slow_base])])
    assert summary.worst_adapter == "a0"
    assert summary.mean("worst_adapter_mean_ttft_ms") == pytest.approx(100)
    assert summary.mean("jain_index") == pytest.approx(1)
    alone = summarise([result([slow_base])])
    assert (alone.worst_adapter, alone.starved_adapters, alone.mean("jain_index")) == (None, [], None)


def test_seeds_give_mean_and_interval() -> None:
    slower = [record(id=0, first_token_s=0.3, finish_s=0.4)]
    summary = summarise([result([record()]), result(slower, seed=1)])
    figure = summary.metrics["mean_ttft_ms"]
    # TTFT 100 and 300 ms: standard error 100, t(1) = 12.7062.
    assert figure.mean == pytest.approx(200)
    assert figure.half_width == pytest.approx(1270.62)
    assert summary.per_seed[1]["mean_ttft_ms"] == pytest.approx(300)
    assert summarise([HAND_RUN]).metrics["mean_ttft_ms"].half_width is None


def test_summary_takes_one_policy_and_distinct_seeds() -> None:
    for results in ([], [HAND_RUN, HAND_RUN], [HAND_RUN, result([], policy="vllm", seed=1)]):
        with pytest.raises(ValueError, match="distinct seeds"):
            summarise(results)


part_seconds = st.floats(0, 100, allow_nan=False)


@given(st.lists(st.tuples(part_seconds, part_seconds, part_seconds, part_seconds), min_size=1, max_size=20))
def test_ttft_parts_add_up(parts: list[tuple[float, float, float, float]]) -> None:
    records = [
        record(
            id=index,
            first_token_s=sum(times),
            finish_s=sum(times),
            queue_s=times[0],
            adapter_load_s=times[1],
            kv_load_s=times[2],
            prefill_s=times[3],
        )
        for index, times in enumerate(parts)
    ]
    figures = metrics_of(result(records))
    total = sum(figures[f"mean_{part}_ms"] or 0.0 for part in ("queue", "adapter_load", "kv_load", "prefill"))
    assert total == pytest.approx(figures["mean_ttft_ms"], abs=1e-6)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} in JSON")


times = st.one_of(st.none(), st.floats(0, 1e4))


@st.composite
def any_record(draw: st.DrawFn) -> RequestRecord:
    """A record of any state, consistent or not."""
    status = draw(st.sampled_from(["finished", "rejected", "aborted", "unfinished"]))
    first, finish = (0.5, 1.0) if status == "finished" else (draw(times), draw(times))
    return record(
        id=draw(st.integers(0, 99)),
        status=status,
        adapter=draw(st.sampled_from([None, "a", "b"])),
        arrival_s=draw(st.floats(0, 1e4)),
        first_token_s=first,
        finish_s=finish,
        prompt_tokens=draw(st.integers(0, 9)),
        output_tokens=draw(st.integers(0, 9)),
        token_times=draw(st.lists(st.floats(0, 1e4), max_size=3)),
    )


@given(st.lists(any_record(), max_size=12), st.sampled_from([0.0, 10.0]), st.booleans())
def test_summary_is_json_without_nan(records: list[RequestRecord], duration_s: float, complete: bool) -> None:
    run = result(records, duration_s=duration_s, complete=complete, timeline={"time_s": [], "free_blocks": []})
    text = to_json(summary_document([summarise([run], MeasureOptions(objectives=Objectives(ttft=1)))]))
    assert json.loads(text, parse_constant=refuse)["policies"]["fastlibra"]["num_prompts"] <= len(records)


def test_plausible_run_is_measured_whole() -> None:
    figures = metrics_of(plausible_run(POLICIES[1]))
    assert figures["completed"] == 300
    assert figures["invalid_kv_ratio"] == pytest.approx(0.31)
    assert figures["prefetch_useful_ratio"] == 0.75
