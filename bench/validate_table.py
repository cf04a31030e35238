"""A validation as a table, as rows and as one JSON line."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.documents import to_json
from bench.format import MISSING, compact, count
from bench.rows import request_rows
from bench.validate import GOALS, HIT_COUNTS, HIT_RATES, LATENCIES, STEPS, Deviation, Validation

# Widths that figures of the usual size need.
_LABEL_WIDTH, _CELL_WIDTH = 26, 22
_GROUPS = (STEPS, LATENCIES, HIT_RATES, HIT_COUNTS)


def validation_table(found: Validation, width: int) -> RenderableType:
    """Metrics as rows, policies as columns, in as many tables as ``width`` columns of text ask for."""
    deviations = {(one.policy, one.metric): one for one in found.deviations()}
    policies = list(dict.fromkeys(policy for policy, _ in deviations))
    at_once = max(1, (width - _LABEL_WIDTH) // _CELL_WIDTH)
    parts: list[RenderableType] = [Text(), Text(f"Validation: {found.conditions.title()}", style="bold")]
    for first in range(0, len(policies), at_once):
        parts += [_draw(policies[first : first + at_once], deviations), Text()]
    return Group(*parts, Text(_caption(found), style="dim"), Text())


def _draw(policies: Sequence[str], deviations: Mapping[tuple[str, str], Deviation]) -> Table:
    """One column per policy: real → simulated, error."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("real → simulated", no_wrap=True)
    for policy in policies:
        table.add_column(policy, justify="right", no_wrap=True)
    for group in _GROUPS:
        for metric in group:
            cells = [_cell(deviations[policy, metric]) for policy in policies]
            table.add_row(_label(metric), *cells, end_section=metric == group[-1])
    return table


def deviation_rows(found: Validation) -> list[dict[str, Any]]:
    """One row per policy and metric; errors are simulated less real."""
    return [_document(one) for one in found.deviations()]


def paired_rows(found: Validation) -> list[dict[str, Any]]:
    """The rows of all requests, real before simulated."""
    sides = (("real", found.real), ("simulated", found.simulated))
    return [{"side": side, **row} for side, results in sides for row in request_rows(results)]


def validation_line(found: Validation) -> str:
    """One JSON object for scripts."""
    policies: dict[str, dict[str, Any]] = {}
    for one in found.deviations():
        figures = {"real": one.real, "simulated": one.simulated, "relative_error": one.relative}
        policies.setdefault(one.policy, {})[one.metric] = figures
    judged = [one.meets_goal for one in found.deviations() if one.meets_goal is not None]
    return to_json(
        {
            "schema_version": 1,
            "profile": found.profile.name,
            "r_squared": found.profile.r_squared,
            "paced": found.paced,
            "partial": found.partial,
            "saturated": found.saturated,
            "goals": len(judged),
            "goals_met": sum(judged),
            "policies": policies,
        }
    )


def _document(one: Deviation) -> dict[str, Any]:
    return {
        "policy": one.policy,
        "metric": one.metric,
        "real": one.real,
        "simulated": one.simulated,
        "error": one.error,
        "relative_error": one.relative,
        "goal": one.goal,
        "meets_goal": one.meets_goal,
    }


def _cell(one: Deviation) -> Text:
    if one.metric in HIT_RATES:
        values = [MISSING if value is None else f"{value:.1%}" for value in (one.real, one.simulated)]
        error = MISSING if one.error is None else f"{100 * one.error:+.1f}pp"
    elif one.metric in HIT_COUNTS:
        values = [count(one.real), count(one.simulated)]
        error = MISSING if one.error is None else f"{one.error:+,.0f}"
    else:
        values = [compact(one.real), compact(one.simulated)]
        error = MISSING if one.relative is None else f"{one.relative:+.1%}"
    style = {True: "green", False: "red", None: ""}[one.meets_goal]
    return Text.assemble(" → ".join(values), (f"{error:>8}", style))


def _label(metric: str) -> str:
    if metric in STEPS:
        kind = metric.removeprefix("mean_").removesuffix("step_ms").removesuffix("_")
        return f"{kind} step ms, same batches".strip()
    if metric in LATENCIES:
        part, name, _ = metric.split("_")
        return f"{part} {name.upper()} ms{_goal(metric)}"
    words = metric.replace("kv_host", "host KV").replace("kv", "KV").replace("_", " ")
    return f"{words}{_goal(metric)}"


def _goal(metric: str) -> str:
    goal = GOALS.get(metric)
    return "" if goal is None else " =" if goal == 0 else f" ±{goal:.0%}"


def _caption(found: Validation) -> str:
    real = found.real[0].caption if found.real else "nothing"
    lines = [found.conditions.describe(), f"real: {real}", f"simulated: {found.profile.name}, {found.profile.source}"]
    if found.paced:
        lines.append("Paced: the real engine ran on the simulation's clock, so times are equal by construction.")
    if found.saturated:
        lines.append(f"Saturated, so that TTFT grows with the run's length: {', '.join(found.saturated)}.")
    if found.partial:
        lines.append("Interrupted: not all policies and seeds have run.")
    return "\n".join(
        [*lines, "Errors are simulated less real; green within the goal beside the name (= asks for equal counts)."]
    )
