"""Settings of a soak, with their defaults in one place."""

from dataclasses import dataclass

from libra.errors import LibraError


@dataclass(frozen=True)
class SoakSettings:
    """``load`` is a share of the peak: ``peak_rps`` if given, else the rate of a closed loop measured first.

    Memory counts from ``warmup_share`` of the run on, when caches and pools have been filled once.
    ``max_drift`` is how much it may have grown since then, as a share. A request that takes longer than ``deadline_s``
    hangs. The caches, small for the 32 million parameter model, keep adapters and KV on the move between disk, host
    memory and HBM.
    """

    minutes: float = 30.0
    load: float = 0.8
    peak_rps: float | None = None
    peak_seconds: float = 20.0
    warmup_share: float = 0.25
    max_drift: float = 0.02
    deadline_s: float = 60.0
    churn_s: float = 1.0
    prompts_per_adapter: int = 6
    answer_tokens: int = 48
    hbm_cache_gib: float = 0.15
    host_cache_gib: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("minutes", "load", "peak_seconds", "max_drift", "deadline_s", "churn_s"):
            if getattr(self, name) <= 0:
                raise LibraError(f"--{name.replace('_', '-')} must be above 0")
        if self.peak_rps is not None and self.peak_rps <= 0:
            raise LibraError("--peak-rps must be above 0")
        if not 0 <= self.warmup_share < 1:
            raise LibraError("--warmup-share must be at least 0 and below 1")
