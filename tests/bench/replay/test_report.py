"""What is said about a run: the self-check, the verdict, vLLM's block, the mix, the timeline."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench.metrics import summarise
from bench.replay.block import BlockFacts, result_block
from bench.replay.check import check_arrivals, check_usage, count_failures, count_retries
from bench.replay.mix import AdapterRow, Fairness, fairness, fairness_line, worst_served
from bench.replay.observation import Observation
from bench.replay.outcome import mix_distance
from bench.replay.scrape import Timeline
from bench.replay.verdict import Facts, judge
from bench.slo import Objectives
from tests.bench.fabricate import record
from tests.bench.fabricate import result as run_result


def seen(**changes: object) -> Observation:
    """A finished request of 100 prompt and 3 output tokens, sent 20 ms late, TTFT 80 ms from sending."""
    fields: dict[str, object] = {
        "record": record(),
        "model": "a0",
        "asked_output_tokens": 3,
        "send_lag_s": 0.02,
        "sent_s": 0.02,
        "attempts": 1,
        "streamed_tokens": 3,
        "told_prompt_tokens": 100,
        "told_completion_tokens": 3,
    }
    return Observation(**(fields | changes))  # type: ignore[arg-type]


def facts(observations: list[Observation], **changes: object) -> Facts:
    fields: dict[str, object] = {
        "num_requests": len(observations),
        "completed": sum(item.finished for item in observations),
        "complete": True,
        "failures": count_failures(observations),
        "retried": count_retries(observations),
        "num_reconnects": 0,
        "arrivals": check_arrivals(observations),
        "usage": check_usage(observations, exact_prompt=True, asked_prompt_tokens=100 * len(observations)),
        "exact_lengths": True,
        "slo_attainment": None,
        "slo_target": 0.99,
        "max_send_lag_ms": 25.0,
        "objectives": "",
    }
    return Facts(**(fields | changes))  # type: ignore[arg-type]


def test_a_clean_run_is_valid() -> None:
    verdict = judge(facts([seen(), seen()]))
    assert verdict.lines() == [
        "Result is : VALID",
        "  Run complete : Yes",
        "  All requests answered : Yes",
        "  Send schedule kept : Yes",
        "  Usage counts agree : Yes",
        "  Output lengths as asked : Yes",
    ]


FAILED = seen(record=record(status="rejected", reason="http 429: busy"), faults=("http 429",))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (facts([seen(), FAILED]), "1 of 2 requests failed: http 429 x1"),
        (facts([FAILED]), "1 of 1 requests failed"),
        (facts([]), "no request was answered"),
        (facts([seen()], max_send_lag_ms=5.0), "p99 send lag 20.0 ms, allowed 5 ms"),
        (facts([seen()], complete=False), "the run was interrupted"),
        (facts([seen(told_prompt_tokens=101)]), "1 prompt and 0 completion counts of 1"),
        (facts([seen(has_token_ids=True, streamed_tokens=2)]), "0 prompt and 1 completion counts of 1"),
        (facts([seen(told_completion_tokens=2)]), "0 prompt and 1 completion counts of 1"),
        (facts([seen(asked_output_tokens=4)]), "1 of 1 answers have not the length asked for"),
        (facts([seen()], slo_attainment=0.5, objectives="ttft:90"), "50.0% of requests met ttft:90, 99.0% wanted"),
    ],
)
def test_what_makes_a_run_invalid(given: Facts, reason: str) -> None:
    verdict = judge(given)
    assert not verdict.valid
    assert any(reason in line for line in verdict.reasons)
    assert verdict.lines()[0] == "Result is : INVALID"


def test_lengths_do_not_decide_where_answers_may_end() -> None:
    assert judge(facts([seen(asked_output_tokens=4)], exact_lengths=False)).valid


def test_an_event_without_text_need_not_be_a_token() -> None:
    assert judge(facts([seen(streamed_tokens=4, silent_events=1)])).valid


def test_lengths_that_nobody_counted_do_not_decide() -> None:
    silent = {"told_prompt_tokens": None, "told_completion_tokens": None, "asked_output_tokens": 9}
    verdict = judge(facts([seen(**silent)]))
    assert verdict.valid
    assert "the tokens of 1 answers are counted by events, and their lengths not checked" in verdict.notes
    known = judge(facts([seen(**silent, has_token_ids=True)]))
    assert not known.valid
    assert known.notes == ("1 answers came without usage",)


def test_what_became_of_the_scraper_is_noted() -> None:
    base = facts([seen()])
    assert judge(base).notes == ()
    (gaps,) = judge(replace(base, pages_not_scraped=2)).notes
    assert "2 pages of metrics could not be read" in gaps
    lost = judge(replace(base, pages_not_scraped=None))
    assert lost.valid
    assert "the scraper died" in lost.notes[0]


def test_retries_missing_usage_and_bundled_tokens_are_noted() -> None:
    retried = seen(attempts=2, faults=("http 503",))
    silent = seen(told_prompt_tokens=None, told_completion_tokens=None)
    bundled = seen(record=record(token_times=[0.1, 0.12]))
    notes = " ".join(judge(facts([retried, silent, bundled], num_reconnects=3)).notes)
    for text in (
        "http 503 x1",
        "1 answers came without usage",
        "fewer events than tokens",
        "3 requests met a connection",
    ):
        assert text in notes


def test_failures_are_counted_by_the_last_attempt_and_retries_by_the_others() -> None:
    given_up = seen(record=record(status="aborted"), attempts=3, faults=("connect", "http 503", "timeout"))
    cancelled = seen(record=record(status="cancelled"), attempts=0)
    assert count_failures([given_up, cancelled, seen()]) == {"timeout": 1, "cancelled": 1}
    assert count_retries([given_up]) == {"connect": 1, "http 503": 1}


def test_the_arrival_check_knows_poisson_from_clockwork() -> None:
    rng = np.random.default_rng(0)
    random_s = np.cumsum(rng.exponential(0.1, 2000))
    even_s = np.arange(2000) * 0.1
    patterns = [
        check_arrivals([seen(record=record(arrival_s=float(at_s))) for at_s in times]).asked
        for times in (random_s, even_s)
    ]
    assert patterns[0].rate == pytest.approx(10, rel=0.1)
    assert patterns[0].cv == pytest.approx(1.0, abs=0.1)
    assert patterns[0].dispersion == pytest.approx(1.0, abs=0.3)
    assert patterns[1].cv == pytest.approx(0.0, abs=1e-6)
    assert patterns[1].dispersion == pytest.approx(0.0, abs=0.05)
    assert check_arrivals([]).p99_send_lag_ms is None


BLOCK = """\
============ Serving Benchmark Result ============
Successful requests:                     2         
Failed requests:                         1         
Maximum request concurrency:             4         
Request rate configured (RPS):           2.50      
Benchmark duration (s):                  10.00     
Total input tokens:                      200       
Total generated tokens:                  6         
Request throughput (req/s):              0.20      
Request goodput (req/s):                 0.20      
Output token throughput (tok/s):         0.60      
Peak output token throughput (tok/s):    6.00      
Peak concurrent requests:                2.00      
Total token throughput (tok/s):          20.60     
---------------Time to First Token----------------
Mean TTFT (ms):                          80.00     
Median TTFT (ms):                        80.00     
P99 TTFT (ms):                           80.00     
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          10.00     
Median TPOT (ms):                        10.00     
P99 TPOT (ms):                           10.00     
---------------Inter-token Latency----------------
Mean ITL (ms):                           10.00     
Median ITL (ms):                         10.00     
P99 ITL (ms):                            10.00     
-------------- Client-side Queueing --------------
Mean Client Queue Time (ms):             0.00      
Median Client Queue Time (ms):           0.00      
P99 Client Queue Time (ms):              0.00      
------- Queue-inclusive End-to-end Latency -------
Mean E2EL incl. Client Queue (ms):       100.00    
Median E2EL incl. Client Queue (ms):     100.00    
P99 E2EL incl. Client Queue (ms):        100.00    
=================================================="""


def test_the_block_is_vllm_s_byte_by_byte() -> None:
    # From the schedule the TTFT is 100 ms; the second request has the tokens of the first a little later.
    late = seen(record=record(first_token_s=0.11, finish_s=0.13, token_times=[0.11, 0.12, 0.13]), send_lag_s=0.03)
    objectives = Objectives(ttft=80.1, tpot=10.1, e2el=100.1)
    told = BlockFacts(duration_s=10.0, request_rate=2.5, max_concurrency=4, objectives=objectives)
    assert result_block([seen(), late, FAILED], told) == BLOCK
    missed = result_block([seen()], replace(told, objectives=Objectives(tpot=9)))
    assert "Request goodput (req/s):                 0.00" in missed


def test_the_block_counts_from_the_first_attempt() -> None:
    again = seen(sent_s=0.09, attempts=2, faults=("http 429",))
    told = BlockFacts(duration_s=10.0, request_rate=2.5, max_concurrency=4, objectives=Objectives(ttft=50))
    lines = result_block([again], told).splitlines()
    assert "Mean TTFT (ms):                          80.00     " in lines
    assert "Mean E2EL incl. Client Queue (ms):       100.00    " in lines
    assert "Request goodput (req/s):                 0.00      " in lines


def test_a_block_of_failures_has_zeros() -> None:
    told = BlockFacts(duration_s=10.0, request_rate=2.5, max_concurrency=None, objectives=Objectives())
    lines = result_block([FAILED], told).splitlines()
    assert "Mean TTFT (ms):                          0.00      " in lines
    assert {len(line) for line in lines if line[0] in "=-"} == {50}
    assert not any("goodput" in line or "Client" in line for line in lines)


def test_the_distance_of_two_mixes() -> None:
    assert mix_distance({"a": (6, 3), "b": (4, 2)}) == pytest.approx(0.0)
    assert mix_distance({"a": (5, 10), "b": (5, 0)}) == pytest.approx(0.5)
    assert mix_distance({"a": (5, 0)}) is None


def test_pages_of_metrics_become_columns() -> None:
    timeline = Timeline()
    page = 'vllm:num_requests_running{{engine="{e}",model_name="m"}} {v}\n'
    timeline.add(1.0, page.format(e=0, v=2) + page.format(e=1, v=3))
    timeline.add(
        2.0, '# TYPE libra:swap_bytes counter\nlibra:swap_bytes_total{direction="in"} 500\nx_bucket{le="1"} 4\n'
    )
    timeline.add(3.0, '# TYPE libra:swap_bytes counter\nlibra:swap_bytes_total{direction="in"} 700\n')
    scraped = timeline.scraped()
    assert scraped.columns["time_s"] == [1.0, 2.0, 3.0]
    assert scraped.columns["running"][0] == 5.0
    assert math.isnan(scraped.columns["running"][1])
    assert not any("bucket" in name for name in scraped.columns)
    assert scraped.counters["swap_in_bytes"] == 700.0
    with pytest.raises(ValueError):
        timeline.add(4.0, "<html>not metrics</html>")


def test_counters_are_what_grew_between_the_first_page_and_the_last() -> None:
    timeline = Timeline()
    for at_s, value in ((1.0, 500), (2.0, 700)):
        timeline.add(at_s, f'libra:swap_bytes_total{{direction="out"}} {value}\n')
    assert timeline.scraped().counters == {"swap_out_bytes": 200.0}


def test_the_facts_can_be_changed_one_by_one() -> None:
    base = facts([seen()])
    assert judge(replace(base, slo_attainment=0.995, objectives="ttft:90")).valid


def test_of_adapters_equally_within_the_objectives_the_worst_waits_longest() -> None:
    def row(adapter: str, slo_attainment: float | None, mean_ttft_ms: float | None) -> AdapterRow:
        rest = dict.fromkeys(AdapterRow.__dataclass_fields__)
        return AdapterRow(
            **rest | {"adapter": adapter, "slo_attainment": slo_attainment, "mean_ttft_ms": mean_ttft_ms}  # type: ignore[arg-type]
        )

    rows = [row("a", 0.5, 10.0), row("b", 0.5, 20.0), row("c", 0.9, 90.0), row("d", None, 99.0)]
    worst = worst_served(rows)
    assert worst is not None
    assert worst.adapter == "b"
    assert worst_served([row("d", None, 99.0)]) is None
    never = [row("a", 0.0, 10.0), row("b", 0.0, None), row("(base)", 0.0, None)]
    worst = worst_served(never)
    assert worst is not None
    assert worst.adapter == "b"


def test_an_adapter_of_which_nothing_finished_is_the_worst_and_counted() -> None:
    refused = record(id=3, adapter="a3", status="rejected", first_token_s=None, finish_s=None, token_times=[])
    records = [record(), record(id=1, adapter="a1"), record(id=2, adapter=None, first_token_s=0.01), refused]
    observations = [seen(record=item) for item in records]
    outcome = SimpleNamespace(
        summary=summarise([run_result(records)]), trace=SimpleNamespace(requests=records), observations=observations
    )
    figures = fairness(outcome, [])  # type: ignore[arg-type]
    assert (figures.worst_adapter, figures.worst_mean_ttft_ms, figures.starved_adapters) == ("a3", None, 1)
    line = fairness_line(figures)
    assert line.startswith("worst adapter a3: nothing finished; 1 adapters finished nothing; Jain's index of mean TTFT")
    assert "TTFT 1.00 over the others;" in line


def test_fairness_of_adapters_that_were_all_served_names_none() -> None:
    line = fairness_line(Fairness("a0", 0.5, 120.0, 0, 0.9, 0.0, None, None))
    assert line.startswith("worst adapter a0: mean TTFT 120 ms, 50.0% within the objectives; Jain's index of mean")
    assert "others" not in line
