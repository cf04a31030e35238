"""Settings of the step loop, with their defaults in one place."""

from dataclasses import dataclass

from libra.errors import LibraError
from libra.spec import DEFAULT_BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """max_num_batched_tokens: prompt and decode tokens of one step. max_num_seqs: admitted requests at a time.
    block_tokens: tokens per block. tick_s: interval of bookkeeping and swapper where the policy names none.
    timeline_s: interval of memory samples, None for none. jump: take runs of identical decode steps at once
    (simulation). max_scan: how deep into the queue a step looks for requests that fit.
    """

    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 256
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    tick_s: float = 0.1
    timeline_s: float | None = 1.0
    jump: bool = True
    max_scan: int = 256

    def __post_init__(self) -> None:
        for name in ("max_num_batched_tokens", "max_num_seqs", "block_tokens", "max_scan"):
            if getattr(self, name) < 1:
                flag = "block-size" if name == "block_tokens" else name.replace("_", "-")
                raise LibraError(f"--{flag} must be at least 1, got {getattr(self, name)}")
        if self.tick_s <= 0 or (self.timeline_s is not None and self.timeline_s <= 0):
            raise LibraError("tick and timeline intervals must be positive")
