"""rows.csv: one row per request, policy and seed."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.columns import MILLISECONDS, e2el_ms, tpot_ms, ttft_ms
from bench.metrics import TTFT_PARTS
from libra.engine.record import RequestRecord, RunResult

# Microseconds: finer than any clock here can claim, and coarse enough that rows compare byte by byte.
_SECOND_DECIMALS, _MILLISECOND_DECIMALS = 6, 3

TEXT_FIELDS = ("policy", "adapter", "session", "status", "reason", "adapter_tier")
FIELDS = (
    *("policy", "seed", "id", "adapter", "session", "status", "reason"),
    *("arrival_s", "admitted_s", "first_token_s", "finish_s", "prompt_tokens", "output_tokens"),
    *("ttft_ms", *(f"{part}_ms" for part in TTFT_PARTS), "tpot_ms", "e2el_ms"),
    *("adapter_tier", "hbm_hit_tokens", "host_hit_tokens", "preemptions"),
)
_COPIED = ("id", "adapter", "session", "status", "reason", "prompt_tokens", "output_tokens")
_CACHE = ("adapter_tier", "hbm_hit_tokens", "host_hit_tokens", "preemptions")

Cell = str | int | float | None


def write_rows(path: Path, results: Iterable[RunResult]) -> None:
    """Writes all requests in the order of ``results``; a missing value is an empty cell. Raises OSError."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(request_rows(results))


def request_rows(results: Iterable[RunResult]) -> Iterator[dict[str, Cell]]:
    """Field -> value, times rounded to microseconds."""
    for result in results:
        for record in result.records:
            yield {"policy": result.policy, "seed": result.seed, **_request_row(record)}


def _request_row(record: RequestRecord) -> dict[str, Cell]:
    row: dict[str, Cell] = {name: getattr(record, name) for name in (*_COPIED, *_CACHE)}
    row |= {
        "arrival_s": _seconds(record.arrival_s),
        "admitted_s": _seconds(record.admitted_s),
        "first_token_s": _seconds(record.first_token_s),
        "finish_s": _seconds(record.finish_s),
        "ttft_ms": _milliseconds(ttft_ms(record)),
        "tpot_ms": _milliseconds(tpot_ms(record)),
        "e2el_ms": _milliseconds(e2el_ms(record)),
    }
    # Parts that add up to nothing were never told: a first token takes time.
    has_parts = record.first_token_s is not None and any(getattr(record, f"{part}_s") for part in TTFT_PARTS)
    for part in TTFT_PARTS:
        row[f"{part}_ms"] = _milliseconds(getattr(record, f"{part}_s") * MILLISECONDS) if has_parts else None
    return row


def _seconds(value: float | None) -> float | None:
    return _rounded(value, _SECOND_DECIMALS)


def _milliseconds(value: float | None) -> float | None:
    return _rounded(value, _MILLISECOND_DECIMALS)


def _rounded(value: float | None, decimals: int) -> float | None:
    # float(): numpy's scalars print otherwise; + 0.0 turns -0.0 into 0.0.
    return None if value is None else round(float(value), decimals) + 0.0
