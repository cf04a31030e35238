"""Which requests of two runs are the same request, and which policies stand against each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.saved_run import SavedRun
from libra.errors import LibraError, unknown

if TYPE_CHECKING:
    import pandas as pd

# What makes two requests the same request, where no digest says that the traces are.
_WORKLOAD_FIELDS = ("adapter", "arrival_s", "prompt_tokens", "output_tokens")


@dataclass(frozen=True)
class PairedRequests:
    """``rows`` has one row per request that finished in both runs, its fields twice with the suffixes _a and _b.

    ``only_a`` and ``only_b`` count the requests that finished in one run alone; ``unlike_prompts`` and
    ``unlike_answers`` those of ``rows`` whose prompt or answer has not as many tokens in both.
    """

    rows: "pd.DataFrame"
    only_a: int
    only_b: int
    unlike_prompts: int
    unlike_answers: int


def choose_policies(
    run_a: SavedRun, run_b: SavedRun, policy: str | None = None, policy_b: str | None = None
) -> list[tuple[str, str]]:
    """Which policies to compare: those named; else the only ones of the runs; else each that both have.

    ``policy`` alone is taken from both runs. Raises LibraError for a name a run lacks, or when nothing matches.
    """
    if policy is not None or policy_b is not None:
        name_a = _pick(run_a, policy or _only_policy(run_a, policy_b), "--policy")
        return [(name_a, _pick(run_b, policy_b or name_a, "--policy-b" if policy_b else "--policy"))]
    if len(run_a.policies) == len(run_b.policies) == 1:
        return [(run_a.policies[0], run_b.policies[0])]
    common = [name for name in run_a.policies if name in run_b.policies]
    if not common:
        raise LibraError(
            f"{run_a.path} has {', '.join(run_a.policies)} and {run_b.path} has {', '.join(run_b.policies)}: "
            "no policy in common; choose one of each with --policy and --policy-b"
        )
    return [(name, name) for name in common]


def _only_policy(run: SavedRun, policy_b: str | None) -> str:
    if len(run.policies) != 1:
        raise LibraError(f"--policy-b {policy_b}: {run.path} holds several policies; choose its own with --policy")
    return run.policies[0]


def _pick(run: SavedRun, name: str, option: str) -> str:
    if name not in run.policies:
        raise unknown(f"policy for {option} in {run.path}", name, run.policies)
    return name


def pair_requests(
    run_a: SavedRun, policy_a: str, run_b: SavedRun, policy_b: str, *, allow_different: bool = False
) -> PairedRequests:
    """Pairs by seed and request id, over the seeds that both runs have and after both warm-ups.

    Requests of one trace need not be alike: those that wait for others arrive when these have finished, each server
    counts the tokens of a text, and answers may end where they will.

    Raises LibraError when the runs share no seed, no request finished in both, or, unless ``allow_different``, the
    traces differ, or of one that has no digest the requests.
    """
    seeds = _common_seeds(run_a, run_b)
    if not allow_different:
        _check_traces(run_a, run_b, seeds)
    warmup_s = max(float(run.meta["conditions"]["warmup_s"]) for run in (run_a, run_b))
    finished_a = _finished(run_a, policy_a, seeds, warmup_s)
    finished_b = _finished(run_b, policy_b, seeds, warmup_s)
    rows = finished_a.merge(finished_b, on=["seed", "id"], suffixes=("_a", "_b")).sort_values(["seed", "id"])
    if rows.empty:
        raise LibraError(
            f"no request finished both under {policy_a} in {run_a.path} and under {policy_b} in {run_b.path}; "
            "compare runs that finished"
        )
    if not allow_different:
        is_of_one_trace = rows["seed"].isin(list(run_a.trace_sha256))
        _check_requests(rows[is_of_one_trace], ("adapter",), run_a, run_b)
        _check_requests(rows[~is_of_one_trace], _WORKLOAD_FIELDS, run_a, run_b)
    return PairedRequests(
        rows,
        only_a=len(finished_a) - len(rows),
        only_b=len(finished_b) - len(rows),
        unlike_prompts=int((rows["prompt_tokens_a"] != rows["prompt_tokens_b"]).sum()),
        unlike_answers=int((rows["output_tokens_a"] != rows["output_tokens_b"]).sum()),
    )


def _common_seeds(run_a: SavedRun, run_b: SavedRun) -> list[int]:
    seeds = sorted(set(run_a.meta["seeds"]) & set(run_b.meta["seeds"]))
    if not seeds:
        raise LibraError(f"{run_a.path} and {run_b.path} share no seed; run one again with the other's --seed")
    return seeds


def _check_traces(run_a: SavedRun, run_b: SavedRun, seeds: Sequence[int]) -> None:
    traces_a, traces_b = run_a.trace_sha256, run_b.trace_sha256
    for seed in seeds:
        if traces_a.get(seed) != traces_b.get(seed):
            raise LibraError(
                f"{run_a.path} and {run_b.path} replayed different traces for seed {seed}; "
                "compare runs of one trace, or pass --allow-different"
            )


def _finished(run: SavedRun, policy: str, seeds: Sequence[int], warmup_s: float) -> "pd.DataFrame":
    rows = run.rows
    kept = (rows["policy"] == policy) & (rows["status"] == "finished") & (rows["arrival_s"] >= warmup_s)
    return rows.loc[kept & rows["seed"].isin(seeds)]


def _check_requests(paired: "pd.DataFrame", names: Sequence[str], run_a: SavedRun, run_b: SavedRun) -> None:
    for name in names:
        differing = paired[paired[f"{name}_a"] != paired[f"{name}_b"]]
        if not differing.empty:
            first = differing.iloc[0]
            raise LibraError(
                f"{run_a.path} and {run_b.path}: request {first['id']} of seed {first['seed']} has {name} "
                f"{first[f'{name}_a']} and {first[f'{name}_b']}; compare runs of one trace, or pass --allow-different"
            )
