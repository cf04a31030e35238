"""vLLM with the best static share for adapters, found by trying them all (the paper's Fig. 19)."""

from dataclasses import dataclass, replace

from baselines.vllm import VLLM
from libra.cache.policy import CachePolicy
from libra.registry import Registry


@dataclass(frozen=True)
class BestShare:
    """``base`` with whichever of ``shares`` gives the lowest mean TTFT in a setting: chosen in hindsight, setting by
    setting, as no operator could."""

    name: str
    summary: str
    base: CachePolicy
    shares: tuple[float, ...]

    def candidates(self) -> tuple[CachePolicy, ...]:
        """One policy per share."""
        return tuple(
            replace(self.base, name=f"{self.base.name} at {share:.2f}", adapter_share=share) for share in self.shares
        )


# The paper steps by 0.05 between 0 and 0.5, its static default being 0.2.
SHARES = tuple(step / 20 for step in range(1, 11))

VLLM_ORACLE = BestShare("vllm-oracle", "vllm at the best of ten static shares, 0.05 to 0.50", VLLM, SHARES)

ORACLES: Registry[BestShare] = Registry("policy")
ORACLES.add(VLLM_ORACLE.name, VLLM_ORACLE)
