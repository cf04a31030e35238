"""Measures the settings the paper leaves open: tau, the visit half-life, and the reading of Eq. 4.

`python -m bench.tuning` writes results/tuning: every combination on two scenarios at two cache sizes, on seeds that no
reported comparison uses. The defaults of libra.cache follow from the table by one rule, stated in its README.
"""

import csv
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import geometric_mean

import typer

from bench.run import run_policies
from bench.settings import BenchSettings
from libra.cache.cost_model import CostModel, Eq4
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import CachePolicy

TAUS_S = (5.0, 30.0, 120.0, 600.0)
HALF_LIVES_S = (60.0, 600.0)
READINGS: tuple[Eq4, ...] = ("hpca", "v1", "lora_only")
SCENARIOS = tuple(product(("chatbot", "agents"), (0.3, 0.6)))
SEEDS = 2
FIRST_SEED = 1000  # comparisons start at 0
DURATION_S = 600.0
FIELDS = ("tau_s", "visit_half_life_s", "eq4", "workload", "cache_fraction", "mean_ttft_ms", "ratio_to_lru")


def variants() -> dict[tuple[float, float, Eq4], CachePolicy]:
    """FASTLIBRA with every combination of the three settings."""
    return {
        (tau_s, half_life_s, reading): replace(
            FASTLIBRA,
            name=f"tau {tau_s:g} s, half-life {half_life_s:g} s, {reading}",
            ranker=CostModel(tau_s=tau_s, eq4=reading),
            visit_half_life_s=half_life_s,
        )
        for tau_s, half_life_s, reading in product(TAUS_S, HALF_LIVES_S, READINGS)
    }


def measure(workload: str, cache_fraction: float) -> list[dict[str, object]]:
    """One row per variant: mean TTFT over requests and seeds, and its ratio to LRU on the same tree and requests."""
    from baselines.lru import LRU

    settings = BenchSettings(
        workload=workload, cache_fraction=cache_fraction, duration_s=DURATION_S, seed=FIRST_SEED, repeats=SEEDS
    )
    by_setting = variants()
    outcome = run_policies(settings, [LRU, *by_setting.values()])
    ttft = {summary.policy: summary.mean("mean_ttft_ms") or float("nan") for summary in outcome.summaries()}
    rows: list[dict[str, object]] = []
    for setting, policy in by_setting.items():
        mean_ms = ttft[policy.name]
        values = (*setting, workload, cache_fraction, round(mean_ms, 4), round(mean_ms / ttft["lru"], 5))
        rows.append(dict(zip(FIELDS, values, strict=True)))
    return rows


def best(rows: list[dict[str, object]]) -> tuple[object, object, object]:
    """The setting with the lowest geometric mean of ratios over all scenarios."""
    ratios: dict[tuple[object, object, object], list[float]] = {}
    for row in rows:
        setting = (row["tau_s"], row["visit_half_life_s"], row["eq4"])
        ratios.setdefault(setting, []).append(float(str(row["ratio_to_lru"])))
    return min(ratios, key=lambda setting: geometric_mean(ratios[setting]))


def main(out: Path = Path("results/tuning")) -> None:
    """Measures everything and writes rows.csv."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [row for workload, fraction in SCENARIOS for row in measure(workload, fraction)]
    with (out / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    typer.echo(f"lowest geometric mean of TTFT over LRU's: tau, half-life, reading = {best(rows)}")


if __name__ == "__main__":
    typer.run(main)
