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
from libra.spec import GIB, AdapterSpec, DeviceSpec, ModelSpec

HBM_UTILIZATION = 0.9
ACTIVATION_RESERVE_BYTES = 2 * GIB  # per GPU
HOST_CACHE_BYTES = 256 * GIB  # the paper's machine


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Blocks of the two tiers."""

    hbm_blocks: int
    host_blocks: int

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
    """HBM left for blocks over all GPUs: 0.9 of it, less the weights, less a reserve for activations (design, 3)."""
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
    """The cache under ``policy``. A static share is cut in whole blocks, rounded down."""
    share = policy.adapter_share
    adapter_blocks = None if share is None else math.floor(share * sizes.hbm_blocks)
    slot_blocks = max((spec.num_blocks(model, config.block_tokens) for spec in adapters), default=1)
    if adapter_blocks is not None and policy.adapter_slots == "padded" and adapter_blocks >= slot_blocks:
        adapter_blocks -= adapter_blocks % slot_blocks  # what no slot fits into is KV's
    hbm = BlockTier("HBM", sizes.hbm_blocks, adapter_blocks)
    host = BlockTier("host", sizes.host_blocks)
    interval_s = config.tick_s if policy.swapper is None else policy.swapper.tick_s
    block_bytes = model.block_bytes(config.block_tokens)

    def recompute_price(num_blocks: int) -> float:
        # Recomputing delays this request and everyone else in the batch; a load delays this request alone.
        return executor.prefill_seconds(num_blocks * config.block_tokens) * (1 + len(manager.holdings))

    memory = CacheMemory(policy, hbm, host, link, clock, block_bytes, interval_s, recompute_price)
    manager = CacheManager(memory, model, adapters, config.block_tokens)
    return manager


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


def link_rates(profile: Profile) -> LinkRates:
    return LinkRates(profile.link_bytes_per_s, profile.link_latency_s, profile.disk_bytes_per_s, profile.disk_latency_s)
