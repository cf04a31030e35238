"""Puts an engine together from its parts: sizes of the tiers, and the simulated one."""

import math
from dataclasses import dataclass

from libra.cache.manager import CacheManager
from libra.cache.memory import CacheMemory
from libra.cache.policy import CachePolicy
from libra.cache.pool import BlockTier
from libra.clock import Clock, VirtualClock
from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.executor import Executor
from libra.engine.link import Link
from libra.engine.profile import Profile
from libra.engine.roofline import RooflineExecutor
from libra.engine.simulated_link import LinkRates, SimulatedLink
from libra.errors import LibraError
from libra.spec import GIB, TARGET_MODULES, AdapterSpec, DeviceSpec, ModelSpec

HBM_UTILIZATION = 0.9
ACTIVATION_RESERVE_BYTES = 2 * GIB  # per GPU


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Blocks of the two tiers. ``slot_rank``: where adapters take padded slots, of at least this rank, and as many as
    the policy names, for adapters that come later."""

    hbm_blocks: int
    host_blocks: int
    slot_rank: int = 0

    @classmethod
    def from_bytes(cls, hbm_bytes: float, host_bytes: float, block_bytes: int) -> "CacheSizes":
        """Whole blocks; raises LibraError when a tier would have none."""
        hbm, host = int(hbm_bytes // block_bytes), int(host_bytes // block_bytes)
        if hbm < 1 or host < 1:
            short, given = ("HBM", hbm_bytes) if hbm < 1 else ("host", host_bytes)
            raise LibraError(
                f"a {short} cache of {given / GIB:.4f} GiB holds no block of {block_bytes / GIB:.4f} GiB; give it more"
            )
        return cls(hbm, host)


def default_hbm_bytes(device: DeviceSpec, model: ModelSpec, tensor_parallel: int) -> float:
    """HBM left for blocks over all GPUs: 0.9 of it, less the weights, less a reserve for activations."""
    left = tensor_parallel * (HBM_UTILIZATION * device.hbm_bytes - ACTIVATION_RESERVE_BYTES) - model.weight_bytes
    if left <= 0:
        raise LibraError(
            f"{model.name} does not fit {tensor_parallel} x {device.name}: its weights alone take "
            f"{model.weight_bytes / GIB:.1f} GiB; raise --tensor-parallel-size"
        )
    return left


def build_manager(
    policy: CachePolicy,
    model: ModelSpec,
    adapters: list[AdapterSpec],
    sizes: CacheSizes,
    config: EngineConfig,
    clock: Clock,
    link: Link,
    executor: Executor,
) -> CacheManager:
    """The cache under ``policy``. Raises LibraError when its adapter slots leave no room for KV."""
    num_adapters, reserved = len(adapters), 0
    if sizes.slot_rank and policy.adapter_slots == "padded":
        slot = AdapterSpec(f"a slot of rank {sizes.slot_rank}", sizes.slot_rank, TARGET_MODULES)
        reserved, num_adapters = slot.num_blocks(model, config.block_tokens), policy.max_adapters or num_adapters
    slot_blocks = max([1, reserved, *(spec.num_blocks(model, config.block_tokens) for spec in adapters)])
    adapter_blocks = _adapter_region(policy, sizes.hbm_blocks, slot_blocks, num_adapters)
    hbm = BlockTier("HBM", sizes.hbm_blocks, adapter_blocks)
    host = BlockTier("host", sizes.host_blocks)
    interval_s = config.tick_s if policy.swapper is None else policy.swapper.tick_s
    block_bytes = model.block_bytes(config.block_tokens)

    def recompute_price(num_blocks: int) -> float:
        # Recomputing delays this request and everyone else in the batch; a load delays this request alone.
        return executor.prefill_seconds(num_blocks * config.block_tokens) * (1 + len(manager.holdings))

    memory = CacheMemory(policy, hbm, host, link, clock, block_bytes, interval_s, recompute_price)
    manager = CacheManager(memory, model, adapters, config.block_tokens, reserved)
    return manager


def _adapter_region(policy: CachePolicy, hbm_blocks: int, slot_blocks: int, num_adapters: int) -> int | None:
    """Blocks cut off HBM for adapters: the policy's number of slots, or its share, in whole blocks, rounded down."""
    if policy.max_adapters is not None:
        num_slots = min(policy.max_adapters, max(num_adapters, 1))
        if num_slots * slot_blocks >= hbm_blocks:
            raise LibraError(
                f"policy {policy.name!r}: {num_slots} adapter slots of {slot_blocks} blocks leave no room for KV in "
                f"{hbm_blocks} blocks of HBM; give it more than {num_slots * slot_blocks} blocks"
            )
        return num_slots * slot_blocks
    if policy.adapter_share is None:
        return None
    adapter_blocks = math.floor(policy.adapter_share * hbm_blocks)
    if policy.adapter_slots == "padded" and adapter_blocks >= slot_blocks:
        adapter_blocks -= adapter_blocks % slot_blocks  # what no slot fits into is KV's
    return adapter_blocks


def build_simulated_engine(
    policy: CachePolicy,
    model: ModelSpec,
    adapters: list[AdapterSpec],
    sizes: CacheSizes,
    profile: Profile,
    config: EngineConfig | None = None,
) -> Engine:
    """An engine in virtual time on ``profile``."""
    config = config or EngineConfig()
    clock = VirtualClock()
    executor = RooflineExecutor(clock, profile, model, adapters)
    link = SimulatedLink(clock, link_rates(profile))
    manager = build_manager(policy, model, adapters, sizes, config, clock, link, executor)
    return Engine(config, clock, executor, manager, model.vocab_size)


def refuse_what_is_simulated_only(policy: CachePolicy, device: str, pace: Profile | None) -> None:
    """Raises LibraError for a policy that a real engine on ``device`` cannot follow: one that starts requests before
    their adapter is in HBM, or fits its scheduler to a profile where ``pace`` is none."""
    choice = None
    if policy.cold_start == "cpu_assist":
        choice = "cold_start cpu_assist"
    elif policy.adapter_load == "by_layer":
        choice = "adapter_load by_layer"
    elif policy.scheduler == "rank_aware" and pace is None:
        choice = "scheduler rank_aware"
    if choice is not None:
        raise LibraError(
            f"policy {policy.name!r}: {choice} is simulated only and cannot run on {device}; use --device sim:..., or "
            "another policy"
        )


def link_rates(profile: Profile) -> LinkRates:
    return LinkRates(profile.link_bytes_per_s, profile.link_latency_s, profile.disk_bytes_per_s, profile.disk_latency_s)
