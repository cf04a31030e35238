"""Task times by hand."""

import pytest

from bench.metrics import MeasureOptions, measure
from bench.tasks import task_metrics
from tests.bench.fabricate import record, result

NEVER = {"first_token_s": None, "finish_s": None, "token_times": []}
RECORDS = [
    record(id=0, task="t0", arrival_s=1.0, finish_s=2.0),
    record(id=1, task="t0", arrival_s=2.5, finish_s=4.0),
    record(id=2, task="t0", arrival_s=2.2, finish_s=5.0),
    record(id=3, task="t1", arrival_s=3.0, finish_s=5.0),
    record(id=4, task="t2", arrival_s=4.0, finish_s=5.0),
    record(id=5, task="t2", arrival_s=4.0, status="cancelled", **NEVER),
    record(id=6, arrival_s=0.0, finish_s=9.0),
]


def test_a_task_takes_from_its_first_arrival_to_its_last_token_and_counts_when_whole() -> None:
    figures = task_metrics(result(RECORDS), warmup_s=0.0)
    assert (figures["num_tasks"], figures["completed_tasks"]) == (3, 2)
    assert figures["mean_task_ms"] == pytest.approx((4000 + 2000) / 2)
    assert figures["p95_task_ms"] == pytest.approx(3900)


def test_the_warm_up_leaves_out_whole_tasks() -> None:
    figures = task_metrics(result(RECORDS), warmup_s=2.0)
    assert (figures["num_tasks"], figures["completed_tasks"]) == (2, 1)
    assert figures["mean_task_ms"] == pytest.approx(2000)


def test_an_interrupted_run_has_no_complete_task() -> None:
    run = result(RECORDS)
    run.complete = False
    figures = task_metrics(run, warmup_s=0.0)
    assert (figures["num_tasks"], figures["completed_tasks"], figures["mean_task_ms"]) == (3, 0, None)


def test_measure_has_task_figures_only_where_there_are_tasks() -> None:
    assert measure(result(RECORDS), MeasureOptions()).metrics["mean_task_ms"] == pytest.approx(3000)
    figures = measure(result(RECORDS[6:]), MeasureOptions()).metrics
    assert "mean_task_ms" not in figures
    assert figures["cancelled"] == 0
    assert measure(result(RECORDS), MeasureOptions()).metrics["cancelled"] == 1
