"""Puts the real engine on CPU together: torch executor, arenas for both tiers, and a link that copies."""

from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path

from libra.cache.manager import CacheManager
from libra.cache.policy import CachePolicy
from libra.cache.tree import PRESENT
from libra.clock import Clock, VirtualClock, WallClock
from libra.engine.arena import ArenaCopier, Arenas
from libra.engine.build import CacheSizes, build_manager, link_rates, refuse_what_is_simulated_only
from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.executor import Executor, StepBatch, StepResult
from libra.engine.link import Link
from libra.engine.profile import Profile
from libra.engine.roofline import RooflineExecutor
from libra.engine.simulated_link import SimulatedLink
from libra.engine.thread_link import ThreadLink
from libra.engine.torch_executor import TorchExecutor
from libra.model.adapter_store import AdapterStore
from libra.model.llama import LlamaModel
from libra.spec import AdapterSpec


@dataclass(frozen=True, slots=True)
class RealLink:
    """Bandwidths to throttle the copies to, in GB/s per direction; None copies as fast as the machine does."""

    gbps: float | None = None
    disk_gbps: float | None = None


class PacedExecutor(Executor):
    """Computes for real but takes the time a simulated executor says, so that a real engine can be driven by the same
    virtual clock as a simulation."""

    def __init__(self, real: TorchExecutor, pace: RooflineExecutor) -> None:
        self._real = real
        self._pace = pace

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        result = self._real.execute(batch, 1, until_s)
        return result._replace(step_ends=self._pace.execute(batch, 1, until_s).step_ends)

    def prefill_seconds(self, num_tokens: int) -> float:
        return self._pace.prefill_seconds(num_tokens)

    def step_seconds(self, adapters: Items[str | None], tokens_each: int) -> float:
        return self._pace.step_seconds(adapters, tokens_each)

    def add_adapter(self, spec: AdapterSpec) -> None:
        self._real.add_adapter(spec)
        self._pace.add_adapter(spec)

    def remove_adapter(self, adapter_id: str) -> None:
        self._real.remove_adapter(adapter_id)
        self._pace.remove_adapter(adapter_id)

    def describe(self) -> str:
        return f"computed on cpu, timed as {self._pace.describe()}"


def build_cpu_engine(
    policy: CachePolicy,
    model: LlamaModel,
    store: AdapterStore,
    adapter_ids: list[str],
    sizes: CacheSizes,
    config: EngineConfig,
    link: RealLink = RealLink(),
    pace: Profile | None = None,
) -> Engine:
    """A real engine for ``adapter_ids`` of ``store``. Close its link after use.

    With ``pace`` it runs in virtual time on that profile: real tokens and real copies, a simulation's schedule.
    Raises LibraError when the tiers do not fit this machine's memory, and for a policy that is simulated only.
    """
    refuse_what_is_simulated_only(policy, "cpu", pace)
    wall = WallClock()
    clock: Clock = wall if pace is None else VirtualClock()
    specs = [store[adapter_id] for adapter_id in adapter_ids]
    arenas = Arenas(model.spec, config.block_tokens, sizes.hbm_blocks, sizes.host_blocks, model.dtype)
    copier = ArenaCopier(arenas, store)
    executor: Executor
    real = TorchExecutor(model, arenas.hbm, {spec.adapter_id: spec for spec in specs}, config.block_tokens, clock)
    if pace is None:
        real.warm_up()
        executor = real
        transfers: Link = ThreadLink(copier, clock, link.gbps, link.disk_gbps)
    else:
        executor = PacedExecutor(real, RooflineExecutor(clock, pace, model.spec, specs))
        transfers = SimulatedLink(clock, link_rates(pace), copier)
    manager = build_manager(policy, model.spec, specs, sizes, config, clock, transfers, executor)
    _fill_host(manager, copier)
    wall.restart()
    return Engine(config, clock, executor, manager, model.spec.vocab_size)


def _fill_host(manager: CacheManager, copier: ArenaCopier) -> None:
    """Puts the weights of every adapter that is at home in host memory there."""
    tree = manager.memory.tree
    for adapter_id, node in tree.adapter_nodes.items():
        if adapter_id is not None and tree.host[node] == PRESENT:
            copier.fill_host(adapter_id, tree.host_blocks[node])


def find_adapters(directory: Path) -> list[Path]:
    """The PEFT directories directly below ``directory``, by name."""
    return sorted(path.parent for path in directory.glob("*/adapter_config.json"))
