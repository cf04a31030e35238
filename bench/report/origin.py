"""Where a run comes from, and what a reader must be warned of before reading its figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.metrics import PolicySummary
from bench.report.view import Fact
from bench.saved_run import SavedRun
from bench.table_layout import SATURATED

PARTIAL = "PARTIAL: the run was interrupted; the figures cover what had been served."
_SHORT_HASH = 12
_GIB = 1 << 30


def warnings(run: SavedRun, ordered: Sequence[PolicySummary]) -> tuple[str, ...]:
    """All of them: an interrupted run, an invalid replay, saturated policies, policies that finished nothing, and what
    the trace itself had to say (drawn adapters, capped prompts)."""
    found = [PARTIAL] if run.meta["partial"] else []
    for item in run.meta["runs"]:
        verdict = item.get("verdict") or {"valid": True}
        if not verdict["valid"]:
            found.append(f"INVALID ({item['policy']}): {'; '.join(verdict['reasons'])}")
    saturated = [summary.policy for summary in ordered if summary.saturated]
    if saturated:
        found.append(
            f"{SATURATED}: {', '.join(saturated)}. The queue was still growing at the end, so mean TTFT grows with the "
            "run's length."
        )
    idle = [summary.policy for summary in ordered if not summary.mean("completed")]
    if idle:
        found.append(f"NO REQUEST FINISHED under {', '.join(idle)}: there is no latency to show.")
    return (*found, *run.meta.get("warnings", ()))


def facts(run: SavedRun) -> tuple[Fact, ...]:
    """Command, place, time, and all versions, for who wants to run it again."""
    meta = run.meta
    found = [
        *origin_facts(meta),
        Fact("seeds", ", ".join(map(str, meta["seeds"])) or "none"),
        Fact("traces", ", ".join(_digest(seed, digest) for seed, digest in meta["trace_sha256"].items()), is_code=True),
        Fact("rows", f"sha256 {meta['rows_sha256'][:_SHORT_HASH]}", is_code=True),
    ]
    if meta["profile"] is not None:
        found.append(Fact("profile", ", ".join(_coefficient(*item) for item in meta["profile"].items())))
    return tuple(fact for fact in found if fact.text)


def origin_facts(meta: Mapping[str, Any]) -> tuple[Fact, ...]:
    """What meta.json says of the origin of a run or a study."""
    return (
        Fact("command", meta["command"], is_code=True),
        Fact("run", meta["created"]),
        Fact("libra", _revision(meta["source"]), is_code=True),
        Fact("versions", ", ".join(f"{name} {version}" for name, version in meta["versions"].items())),
        Fact("machine", _machine(meta["machine"])),
    )


def where(device: str) -> str:
    """What tables say of a device: ``sim:h800`` is simulated on h800."""
    kind, _, name = device.partition(":")
    return f"simulated on {name}" if kind == "sim" else f"measured on {device}"


def _revision(source: dict[str, object]) -> str:
    commit = source.get("commit")
    if commit is None:
        return "not from a repository"
    return f"{str(commit)[:_SHORT_HASH]}{' with uncommitted changes' if source.get('dirty') else ''}"


def _machine(machine: dict[str, object]) -> str:
    shown = {name: value for name, value in machine.items() if name != "ram_bytes" and value is not None}
    ram = machine.get("ram_bytes")
    parts = [f"{value} cores" if name == "cores" else str(value) for name, value in shown.items()]
    return ", ".join([*parts, *([f"{ram / _GIB:.0f} GiB"] if isinstance(ram, int) else [])])


def _digest(seed: str, digest: str) -> str:
    return f"seed {seed} {digest[:_SHORT_HASH]}"


def _coefficient(name: str, value: object) -> str:
    shown = "unknown" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{name.replace('_', ' ')} {shown}"
