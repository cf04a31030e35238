"""What the dashboard draws."""

from collections import deque
from typing import Any

from libra.engine.record import RequestRecord
from libra.server.engine_client import EngineClient
from libra.server.metrics import TTFT_PARTS

NUM_RECENT = 200
NUM_POINTS = 240
STATE_COLUMNS = (
    "time_s", "adapter_blocks", "history_blocks", "running_blocks", "in_flight_blocks", "free_blocks", "invalid_blocks",
    "adapters_in_hbm", "waiting", "running",
)  # fmt: skip


class RecentParts:
    """The parts of TTFT of the last requests, by where their adapter was."""

    def __init__(self) -> None:
        self._rows: deque[tuple[str, tuple[float, ...]]] = deque(maxlen=NUM_RECENT)

    def add(self, record: RequestRecord) -> None:
        if record.first_token_s is not None:
            self._rows.append((record.adapter_tier, tuple(getattr(record, f"{part}_s") for part in TTFT_PARTS)))

    def means(self) -> list[dict[str, Any]]:
        """Per tier: how many requests, and the mean of each part in seconds."""
        by_tier: dict[str, list[tuple[float, ...]]] = {}
        for tier, parts in self._rows:
            by_tier.setdefault(tier, []).append(parts)
        return [
            {
                "tier": tier,
                "requests": len(rows),
                "parts": {
                    part: sum(column) / len(rows)
                    for part, column in zip(TTFT_PARTS, zip(*rows, strict=True), strict=True)
                },
            }
            for tier, rows in sorted(by_tier.items())
        ]


def dashboard_stats(engine: EngineClient, recent: RecentParts, model_name: str, policy_name: str) -> dict[str, Any]:
    """State over the last minutes, the adapters, and the mean parts of TTFT."""
    snapshots = list(engine.snapshots)[-NUM_POINTS:]
    last = snapshots[-1]
    return {
        "model": model_name,
        "policy": policy_name,
        "hbm_blocks": last.hbm_blocks,
        "block_bytes": last.block_bytes,
        "history": {name: [snapshot.state[name] for snapshot in snapshots] for name in STATE_COLUMNS},
        "counters": last.counters,
        "adapters": last.adapter_tiers,
        "running_adapters": list(last.running_adapters),
        "ttft": recent.means(),
        "failure": engine.failure,
    }
