"""Policies that are the best of several candidates in hindsight, such as vllm-oracle."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from baselines import POLICIES, find_policy
from baselines.oracle import ORACLES
from bench.format import compact
from bench.metrics import PolicySummary
from bench.platform import Platform
from bench.settings import BenchSettings
from bench.setup import SeedSetup, check
from libra.cache.policy import CachePolicy
from libra.errors import LibraError, unknown

if TYPE_CHECKING:
    from bench.run import BenchOutcome


@dataclass(frozen=True)
class Choice:
    """A column of a table: one policy, or the best of several."""

    name: str
    candidates: tuple[CachePolicy, ...]

    @classmethod
    def of(cls, policy: CachePolicy) -> "Choice":
        return cls(policy.name, (policy,))

    @property
    def is_open(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.candidates) > 1


def find_choice(name: str) -> Choice:
    """What ``--policy`` names: an oracle, a policy, or one in a user's file. Raises LibraError on an unknown name."""
    if name in ORACLES:
        return Choice(name, ORACLES[name].candidates())
    if name not in POLICIES and not name.rpartition(":")[0].endswith(".py"):
        raise unknown(POLICIES.kind, name, [*POLICIES, *ORACLES])
    return Choice.of(find_policy(name))


def working_candidates(
    choice: Choice, platform: Platform, setups: Sequence[SeedSetup], settings: BenchSettings
) -> list[CachePolicy]:
    """The candidates that can run in these caches. Raises LibraError, for the first of them, when none can."""
    working: list[CachePolicy] = []
    first_fault: LibraError | None = None
    for policy in choice.candidates:
        try:
            for setup in setups:
                check(platform, policy, setup, settings.engine)
            working.append(policy)
        except LibraError as fault:
            first_fault = first_fault or fault
    if not working and first_fault is not None:
        raise first_fault
    return working


def settle(choice: Choice, outcome: "BenchOutcome") -> None:
    """Keeps of an open choice the candidate with the lowest mean TTFT over the seeds, under the choice's name.

    Mutates ``outcome``: policies, results, notes and candidates. One that an interrupt left with fewer seeds than
    others is not chosen.
    """
    names = {policy.name for policy in choice.candidates}
    tried = [summary for summary in outcome.summaries() if summary.policy in names]
    if not choice.is_open or not tried:
        return
    outcome.candidates += tried
    chosen = _best(tried)
    outcome.policies = [
        replace(policy, name=choice.name) if policy.name == chosen else policy
        for policy in outcome.policies
        if policy.name == chosen or policy.name not in names
    ]
    outcome.results = [result for result in outcome.results if result.policy == chosen or result.policy not in names]
    for result in outcome.results:
        if result.policy == chosen:
            result.policy = choice.name
            result.extra["chosen"] = chosen
    others = ", ".join(f"{summary.policy} {compact(summary.mean('mean_ttft_ms'))}" for summary in tried)
    outcome.notes.append(f"{choice.name} is {chosen}, the lowest mean TTFT in ms of: {others}")


def _best(tried: Sequence[PolicySummary]) -> str:
    most_seeds = max(len(summary.seeds) for summary in tried)

    def rank(summary: PolicySummary) -> tuple[bool, float]:
        mean = summary.mean("mean_ttft_ms")
        return len(summary.seeds) < most_seeds, math.inf if mean is None else mean

    return min(tried, key=rank).policy
