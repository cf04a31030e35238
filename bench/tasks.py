"""How long users wait for tasks of several requests that depend on each other."""

from collections import defaultdict

import numpy as np

from bench.columns import MILLISECONDS
from bench.statistics import distribution
from libra.engine.record import RequestRecord, RunResult


def task_metrics(result: RunResult, warmup_s: float) -> dict[str, float | None]:
    """``num_tasks``, ``completed_tasks`` and the distribution of ``task_ms`` over the tasks that began after
    ``warmup_s``; nothing where the requests name no tasks.

    A task takes from its first arrival to its last token, and is complete when all of its requests have finished. An
    interrupted run does not know which requests its tasks still lacked, so it has no complete task.
    """
    tasks: defaultdict[str, list[RequestRecord]] = defaultdict(list)
    for record in result.records:
        if record.task is not None:
            tasks[record.task].append(record)
    if not tasks:
        return {}
    starts = {name: min(record.arrival_s for record in records) for name, records in tasks.items()}
    counted = [name for name, start_s in starts.items() if start_s >= warmup_s]
    durations_ms = []
    for name in counted if result.complete else ():
        ends_s = [record.finish_s for record in tasks[name] if record.status == "finished"]
        known_s = [end_s for end_s in ends_s if end_s is not None]
        if len(known_s) == len(tasks[name]):
            durations_ms.append((max(known_s) - starts[name]) * MILLISECONDS)
    figures = distribution("task_ms", np.array(durations_ms))
    return {"num_tasks": len(counted), "completed_tasks": len(durations_ms), **figures}
