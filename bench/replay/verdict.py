"""VALID or INVALID, with reasons, in the manner of MLPerf LoadGen's summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.replay.check import ArrivalCheck, UsageCheck


@dataclass(frozen=True)
class Constraint:
    """One condition of a valid run. ``reason`` says what is wrong and what to do, where it is not satisfied."""

    name: str
    satisfied: bool
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """A run is valid when it meets every constraint. ``notes`` are facts a reader must know that do not decide."""

    constraints: tuple[Constraint, ...]
    notes: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        return all(constraint.satisfied for constraint in self.constraints)

    @property
    def reasons(self) -> list[str]:
        return [constraint.reason for constraint in self.constraints if not constraint.satisfied]

    def lines(self) -> list[str]:
        """The text to print."""
        lines = [f"Result is : {'VALID' if self.valid else 'INVALID'}"]
        lines += [f"  {item.name} : {'Yes' if item.satisfied else 'NO'}" for item in self.constraints]
        if self.reasons:
            lines += ["Reasons:", *(f" * {reason}" for reason in self.reasons)]
        if self.notes:
            lines += ["Notes:", *(f" * {note}" for note in self.notes)]
        return lines


@dataclass(frozen=True)
class Facts:
    """What a verdict rests on. ``slo_attainment`` None: no objectives were given; ``pages_not_scraped`` None: the
    scraper has died."""

    num_requests: int
    completed: int
    complete: bool
    failures: Mapping[str, int]
    retried: Mapping[str, int]
    num_reconnects: int
    arrivals: ArrivalCheck
    usage: UsageCheck
    exact_lengths: bool
    slo_attainment: float | None
    slo_target: float
    max_send_lag_ms: float
    objectives: str
    pages_not_scraped: int | None = 0


def judge(facts: Facts) -> Verdict:
    """The verdict on a run."""
    constraints = [
        Constraint("Run complete", facts.complete, "the run was interrupted: the figures cover what had been served"),
        _answered(facts),
        _schedule(facts),
        _usage(facts),
    ]
    if facts.exact_lengths:
        constraints.append(_lengths(facts))
    if facts.objectives:
        constraints.append(_performance(facts))
    return Verdict(tuple(constraints), tuple(_notes(facts)))


def _answered(facts: Facts) -> Constraint:
    failed = sum(facts.failures.values())
    reason = f"{failed:,} of {facts.num_requests:,} requests failed: {_counted(facts.failures)}"
    if not facts.completed:
        reason = reason if failed else "no request was answered"
    return Constraint("All requests answered", failed == 0 and facts.completed > 0, reason)


def _schedule(facts: Facts) -> Constraint:
    lag_ms = facts.arrivals.p99_send_lag_ms
    if lag_ms is None:
        return Constraint("Send schedule kept", satisfied=False, reason="no request was sent")
    reason = (
        f"the generator sent late: p99 send lag {lag_ms:.1f} ms, allowed {facts.max_send_lag_ms:g} ms; "
        "use more --workers, an idle machine, or a lower rate"
    )
    return Constraint("Send schedule kept", lag_ms <= facts.max_send_lag_ms, reason)


def _usage(facts: Facts) -> Constraint:
    usage = facts.usage
    reason = (
        f"usage contradicts what was sent or streamed: {usage.wrong_prompt:,} prompt and {usage.wrong_completion:,} "
        f"completion counts of {usage.checked:,}; the server truncates, adds tokens, or miscounts"
    )
    return Constraint("Usage counts agree", usage.contradictions == 0, reason)


def _lengths(facts: Facts) -> Constraint:
    reason = (
        f"{facts.usage.wrong_length:,} of {facts.completed:,} answers have not the length asked for; "
        "does the server honour ignore_eos and min_tokens? --no-ignore-eos lets answers end where they will"
    )
    return Constraint("Output lengths as asked", facts.usage.wrong_length == 0, reason)


def _performance(facts: Facts) -> Constraint:
    attainment = facts.slo_attainment or 0.0
    reason = f"{attainment:.1%} of requests met {facts.objectives}, {facts.slo_target:.1%} wanted; lower the rate"
    return Constraint("Performance constraints satisfied", attainment >= facts.slo_target, reason)


def _notes(facts: Facts) -> Sequence[str]:
    notes = []
    if facts.retried:
        notes.append(f"attempts that failed and were made again: {_counted(facts.retried)}; latencies include them")
    if facts.num_reconnects:
        notes.append(f"{facts.num_reconnects:,} requests met a connection closed while idle and went out on a new one")
    if facts.usage.missing:
        notes.append(f"{facts.usage.missing:,} answers came without usage")
    if facts.usage.uncounted:
        text = f"the tokens of {facts.usage.uncounted:,} answers are counted by events"
        notes.append(f"{text}, and their lengths not checked" if facts.exact_lengths else text)
    if facts.usage.bundled:
        notes.append(f"{facts.usage.bundled:,} answers came in fewer events than tokens: ITL is between events")
    if facts.pages_not_scraped is None:
        notes.append("the scraper died, and what it had gathered is lost: no timeline, no counters of the server")
    elif facts.pages_not_scraped:
        notes.append(f"{facts.pages_not_scraped:,} pages of metrics could not be read: the timeline has gaps")
    return notes


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} x{count:,}" for kind, count in counts.items())
