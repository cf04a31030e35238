"""requests.csv: what the client knows of each request beyond rows.csv."""

import csv
import io
from collections.abc import Iterable, Iterator

from bench.replay.observation import Observation

FIELDS = (
    *("id", "adapter", "model", "status", "scheduled_s", "sent_s", "send_lag_ms", "slot_wait_ms"),
    *("attempts", "faults", "streamed_tokens", "usage_prompt_tokens", "usage_completion_tokens"),
    *("usage_cached_tokens", "adapter_tier", "server_queue_ms", "server_prefill_ms"),
)

Cell = str | int | float | None


def requests_csv(observations: Iterable[Observation]) -> str:
    """One row per request; a missing value is an empty cell. Faults of several attempts are joined by ``|``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(observations))
    return text.getvalue()


def _rows(observations: Iterable[Observation]) -> Iterator[dict[str, Cell]]:
    for seen in observations:
        record, times = seen.record, seen.server_times
        yield {
            "id": record.id,
            "adapter": record.adapter,
            "model": seen.model,
            "status": record.status,
            "scheduled_s": _rounded(record.arrival_s, 6),
            "sent_s": _rounded(seen.sent_s, 6),
            "send_lag_ms": _milliseconds(seen.send_lag_s),
            "slot_wait_ms": _milliseconds(seen.slot_wait_s),
            "attempts": seen.attempts,
            "faults": "|".join(seen.faults),
            "streamed_tokens": seen.streamed_tokens,
            "usage_prompt_tokens": seen.told_prompt_tokens,
            "usage_completion_tokens": seen.told_completion_tokens,
            "usage_cached_tokens": seen.told_cached_tokens,
            "adapter_tier": times.adapter_tier if times is not None else None,
            "server_queue_ms": _milliseconds(times.queue_s) if times is not None else None,
            "server_prefill_ms": _milliseconds(times.prefill_s) if times is not None else None,
        }


def _milliseconds(value_s: float | None) -> float | None:
    return None if value_s is None else _rounded(value_s * 1e3, 3)


def _rounded(value: float | None, decimals: int) -> float | None:
    return None if value is None else round(value, decimals)
