"""Generated traces against what their configs state, over 20 seeds, in bands of 4 standard errors.

Every band is worked from the config: a Poisson process of sessions with K turns each has a count of variance
mean * E[K^2] / E[K] at most, and rounded, clipped lengths have moments that follow from their distribution.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from workloads.agents import AGENTS
from workloads.chatbot import CHATBOT, CHATBOT_33K
from workloads.demand import Demand
from workloads.distributions import Distribution, Exponential, LogNormal
from workloads.sessions import SessionConfig, generate
from workloads.translation import TRANSLATION

SEEDS = range(20)
SIGMAS = 4
RATE, DURATION_S, ADAPTERS = 4.0, 1800.0, 20
every_config = pytest.mark.parametrize("config", [CHATBOT, CHATBOT_33K, TRANSLATION, AGENTS], ids=lambda c: c.name)


@dataclass(frozen=True)
class Columns:
    """One trace as arrays: one entry per request; ``turn`` counts from 0 in its session."""

    arrival_s: np.ndarray
    adapter: np.ndarray
    session: np.ndarray
    turn: np.ndarray
    user_tokens: np.ndarray
    answer_tokens: np.ndarray
    turns_cut: int


@cache
def columns(name: str, seed: int, arrivals: str = "poisson") -> Columns:
    config = {config.name: config for config in (CHATBOT, CHATBOT_33K, TRANSLATION, AGENTS)}[name]
    trace = generate(config, Demand(ADAPTERS, RATE, DURATION_S, seed, "zipf:1.0", arrivals))
    rows = [
        (
            request.arrival_s,
            int((request.adapter or "").removeprefix("lora-")),
            int((request.session or "").removeprefix("s")),
            (len(request.prompt) - 2) // 2,
            request.prompt[-1].length,
            request.output_tokens,
        )
        for request in trace.requests
    ]
    return Columns(*np.array(rows).T, turns_cut=trace.header.counts["turns_cut_by_context"])


def turn_moments(config: SessionConfig) -> tuple[float, float]:
    """Mean and variance of the turns of a session: 1 + a negative binomial."""
    later = config.mean_turns - 1
    return config.mean_turns, later + later**2 / config.turn_shape


def token_moments(length: Distribution, maximum: int) -> tuple[float, float]:
    """Mean and variance of a length that is rounded and clipped to 1..maximum, as sums over its tail probabilities."""
    tokens = np.arange(1, maximum + 1)
    tail = np.array([1.0 if k == 1 else 1 - _cumulative(length)(k - 0.5) for k in tokens])
    mean = float(tail.sum())
    return mean, float(((2 * tokens - 1) * tail).sum()) - mean**2


def _cumulative(length: Distribution) -> Callable[[float], float]:
    if isinstance(length, Exponential):
        return lambda value: 1 - math.exp(-value / length.mean)
    assert isinstance(length, LogNormal)
    variance = math.log1p(length.cv**2)
    middle, deviation = math.log(length.mean) - variance / 2, math.sqrt(variance)
    return lambda value: 0.5 * (1 + math.erf((math.log(value) - middle) / (deviation * math.sqrt(2))))


@every_config
def test_the_rate_is_met_in_every_third_of_the_run(config: SessionConfig) -> None:
    mean, variance = turn_moments(config)
    clumping = (variance + mean**2) / mean
    thirds = sum(
        np.histogram(columns(config.name, seed).arrival_s, 3, (0, DURATION_S))[0].astype(float) for seed in SEEDS
    )
    cut = sum(columns(config.name, seed).turns_cut for seed in SEEDS)
    expected = RATE * DURATION_S / 3 * len(SEEDS)
    band = SIGMAS * math.sqrt(expected * clumping)
    # Sessions begin early enough for all but 1 % of the turns due at time 0.
    assert np.all(thirds > 0.99 * expected - band - cut)
    assert np.all(thirds < expected + band)


@every_config
def test_counts_are_dispersed_between_poisson_and_whole_sessions(config: SessionConfig) -> None:
    mean, variance = turn_moments(config)
    dispersions = []
    for seed in SEEDS:
        counts = np.histogram(columns(config.name, seed).arrival_s, int(DURATION_S / 60), (0, DURATION_S))[0]
        dispersions.append(counts.var(ddof=1) / counts.mean())
    error = np.std(dispersions, ddof=1) / math.sqrt(len(SEEDS))
    assert 1 - SIGMAS * error < np.mean(dispersions) < (variance + mean**2) / mean + SIGMAS * error


@pytest.mark.parametrize(("arrivals", "cv"), [("poisson", 1.0), ("gamma:0.5", 0.5), ("gamma:2.5", 2.5)])
def test_the_gap_cv_is_the_asked_one(arrivals: str, cv: float) -> None:
    gaps = [np.diff(columns("translation", seed, arrivals).arrival_s) for seed in SEEDS]
    found = [gap.std() / gap.mean() for gap in gaps]
    error = np.std(found, ddof=1) / math.sqrt(len(SEEDS))
    assert error < 0.02 * cv
    assert np.mean(found) == pytest.approx(cv, abs=SIGMAS * error)


def test_a_poisson_gap_cv_varies_as_it_should() -> None:
    # The CV of n exponential gaps has a standard error of n ** -0.5.
    found = [np.diff(columns("translation", seed).arrival_s) for seed in SEEDS]
    errors = [(gaps.std() / gaps.mean() - 1) * math.sqrt(len(gaps)) for gaps in found]
    assert np.abs(errors).max() < SIGMAS


@every_config
def test_sessions_choose_adapters_by_zipfs_law(config: SessionConfig) -> None:
    weights = 1 / np.arange(1, ADAPTERS + 1)
    shares = weights / weights.sum()
    statistic = 0.0
    for seed in SEEDS:
        found = columns(config.name, seed)
        _, first = np.unique(found.session, return_index=True)
        counts = np.bincount(found.adapter[first].astype(int), minlength=ADAPTERS)
        statistic += float(((counts - len(first) * shares) ** 2 / (len(first) * shares)).sum())
    freedom = (ADAPTERS - 1) * len(SEEDS)
    assert statistic == pytest.approx(freedom, abs=SIGMAS * math.sqrt(2 * freedom))  # chi-squared


def test_the_popularity_slope_is_the_exponent() -> None:
    ranks = np.log(np.arange(1, ADAPTERS + 1))
    weights = (ranks - ranks.mean()) / ((ranks - ranks.mean()) ** 2).sum()  # of a least-squares slope
    slopes, variances = [], []
    for seed in SEEDS:
        counts = np.bincount(columns("translation", seed).adapter.astype(int), minlength=ADAPTERS)
        slopes.append(float(weights @ np.log(counts)))
        variances.append(float(weights**2 @ (1 / counts)))  # log of a count has variance 1 / count
    assert np.mean(slopes) == pytest.approx(-1, abs=SIGMAS * math.sqrt(np.mean(variances) / len(SEEDS)))


@every_config
def test_turns_have_the_stated_mean_and_spread(config: SessionConfig) -> None:
    lengths = []
    for seed in SEEDS:
        found = columns(config.name, seed)
        # Sessions that begin in the first third end in the window, but for a few in a thousand.
        begun = found.session[(found.turn == 0) & (found.arrival_s < DURATION_S / 3)]
        lengths.append(np.bincount(found.session.astype(int))[begun.astype(int)])
    turns = np.concatenate(lengths)
    mean, variance = turn_moments(config)
    assert turns.mean() == pytest.approx(mean, abs=SIGMAS * math.sqrt(variance / len(turns)) + 0.005 * (mean - 1))
    if variance:
        assert turns.var() == pytest.approx(variance, rel=0.15)


@every_config
@pytest.mark.parametrize("part", ["user", "answer"])
def test_lengths_have_the_stated_mean_and_spread(config: SessionConfig, part: str) -> None:
    tokens = np.concatenate([getattr(columns(config.name, seed), f"{part}_tokens") for seed in SEEDS])
    mean, variance = token_moments(getattr(config, f"{part}_tokens"), config.max_utterance_tokens)
    assert mean == pytest.approx(getattr(config, f"{part}_tokens").mean, rel=0.01)  # clipping takes little
    assert tokens.mean() == pytest.approx(mean, abs=SIGMAS * math.sqrt(variance / len(tokens)))
    assert tokens.std() == pytest.approx(math.sqrt(variance), rel=0.05)


@pytest.mark.parametrize("config", [CHATBOT, AGENTS], ids=lambda c: c.name)
def test_turns_are_a_service_time_and_a_think_time_apart(config: SessionConfig) -> None:
    waits = []
    for seed in SEEDS:
        found = columns(config.name, seed)
        order = np.lexsort((found.turn, found.session))
        session, arrival_s = found.session[order], found.arrival_s[order]
        next_turn = np.flatnonzero((np.diff(session) == 0) & (arrival_s[:-1] < DURATION_S / 2))
        service = config.service.first_token_s + config.service.per_token_s * found.answer_tokens[order][next_turn]
        waits.append(np.diff(arrival_s)[next_turn] - service)
    waited = np.concatenate(waits)
    think = config.think_s
    assert isinstance(think, LogNormal)
    # Waits longer than half a run are cut off: under one in a thousand of chatbot's.
    assert waited.mean() == pytest.approx(think.mean, abs=SIGMAS * think.mean * think.cv / len(waited) ** 0.5 + 0.3)
    assert waited.min() > 0
