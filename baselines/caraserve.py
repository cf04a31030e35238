"""CaraServe (arXiv 2401.11240; Toppings, ATC 2025): S-LoRA's memory, cold starts on the CPU. One server's half."""

from dataclasses import replace

from baselines.slora import SLORA

CARASERVE = replace(
    SLORA,
    name="caraserve",
    summary="slora, but a cold request starts at once: CPU cores compute its adapter's product while that loads",
    cold_start="cpu_assist",
)

CARASERVE_RANK_AWARE = replace(
    CARASERVE,
    name="caraserve-rank-aware",
    summary="caraserve with requests admitted in the order of what they add to prefill and decode (its Algorithm 1)",
    scheduler="rank_aware",
)
