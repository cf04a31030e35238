"""Puts the real engine together, on a CPU or a GPU: executor, arenas for both tiers, and a link that copies."""

import warnings
from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path

from libra.cache.manager import CacheManager
from libra.cache.policy import CachePolicy
from libra.cache.tree import PRESENT
from libra.clock import Clock, VirtualClock, WallClock
from libra.engine.arena import ArenaCopier, Arenas, LaneCopier, TierCopier
from libra.engine.build import CacheSizes, build_manager, link_rates, refuse_what_is_simulated_only
from libra.engine.config import EngineConfig
from libra.engine.cuda_device import CudaDevice
from libra.engine.decode_graphs import fitting_buckets
from libra.engine.device import Device
from libra.engine.device_executor import DeviceExecutor
from libra.engine.engine import Engine
from libra.engine.executor import Executor, StepBatch, StepResult
from libra.engine.link import Link
from libra.engine.machine import steady_memory
from libra.engine.profile import Profile
from libra.engine.roofline import RooflineExecutor
from libra.engine.simulated_link import SimulatedLink
from libra.engine.thread_link import ThreadLink
from libra.engine.torch_executor import TorchExecutor
from libra.errors import LibraError, unknown
from libra.kernels.runtime import compile_fault
from libra.model.adapter_weights import AdapterWeights
from libra.model.backend import Backend, TorchBackend
from libra.model.config import read_config
from libra.model.llama import LlamaModel, load_model
from libra.spec import AdapterSpec


class BackendFallback(UserWarning):
    """A kernel did not compile: the torch path computes instead, slower."""


@dataclass(frozen=True, slots=True)
class RealLink:
    """Bandwidths to throttle the copies to, in GB/s per direction; None copies as fast as the machine does."""

    gbps: float | None = None
    disk_gbps: float | None = None


class PacedExecutor(Executor):
    """Computes for real but takes the time a simulated executor says, so that a real engine can be driven by the same
    virtual clock as a simulation."""

    def __init__(self, real: Executor, pace: RooflineExecutor, device: str) -> None:
        self._real = real
        self._pace = pace
        self._device = device

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        result = self._real.execute(batch, 1, until_s)
        self._pace.while_busy = self.while_busy
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

    @property
    def fallback(self) -> str | None:
        return self._real.fallback

    def describe(self) -> str:
        return f"computed on {self._device}, timed as {self._pace.describe()}"


def open_device(name: str) -> Device | None:
    """The device of this name; None is the CPU, for which the engine has forms of its own. Raises LibraError where
    there is no such device."""
    if name == "cpu":
        return None
    if name != "cuda":
        raise unknown("device", name, ("cpu", "cuda"))
    return CudaDevice()


def load_network(directory: Path, dtype: str, backend: Backend, device: Device | None) -> LlamaModel:
    """The model in a Hugging Face directory, on ``device``. Raises LibraError as ``load_model`` does, and where the
    device cannot hold it or does not compute in ``dtype``."""
    if device is None:
        steady_memory()
        return load_model(directory, dtype, backend=backend)
    device.check_use(dtype, read_config(directory, dtype).spec)
    return load_model(directory, dtype, prepack=False, backend=backend, device=device.place)


def build_real_engine(
    policy: CachePolicy,
    model: LlamaModel,
    store: AdapterWeights,
    adapter_ids: list[str],
    sizes: CacheSizes,
    config: EngineConfig,
    link: RealLink = RealLink(),
    pace: Profile | None = None,
    device: Device | None = None,
    graphs: bool = True,
) -> Engine:
    """A real engine for ``adapter_ids`` of ``store`` on ``device``, where ``model`` is; None is the CPU, in the forms
    that are fastest there. ``graphs`` False captures no decode steps. Close its link after use.

    With ``pace`` it runs in virtual time on that profile: real tokens and real copies, a simulation's schedule.
    Raises LibraError when the tiers do not fit the memory there is, and for a policy that is simulated only.
    """
    kind = "cpu" if device is None else device.type
    refuse_what_is_simulated_only(policy, kind, pace)
    wall = WallClock()
    clock: Clock = wall if pace is None else VirtualClock()
    specs = {adapter_id: store[adapter_id] for adapter_id in adapter_ids}
    # In virtual time the pace says when a step ends, and what it says of a step under way is all there is to know.
    beside = pace is None and policy.admits == "at_any_time"
    copier, real = _parts(model, store, specs, sizes, config, clock, device, graphs, beside)
    executor: Executor = real
    transfers: Link
    if pace is None:
        transfers = ThreadLink(copier, clock, link.gbps, link.disk_gbps)
    else:
        executor = PacedExecutor(real, RooflineExecutor(clock, pace, model.spec, list(specs.values())), kind)
        transfers = SimulatedLink(clock, link_rates(pace), copier)
    manager = build_manager(policy, model.spec, list(specs.values()), sizes, config, clock, transfers, executor)
    _fill_host(manager, copier)
    wall.restart()
    return Engine(config, clock, executor, manager, model.spec.vocab_size)


def _parts(
    model: LlamaModel,
    store: AdapterWeights,
    specs: Mapping[str, AdapterSpec],
    sizes: CacheSizes,
    config: EngineConfig,
    clock: Clock,
    device: Device | None,
    graphs: bool,
    beside: bool,
) -> tuple[TierCopier, Executor]:
    """What copies and what computes, warmed up."""
    if device is not None:
        device.tidy()
    arenas = Arenas(model.spec, config.block_tokens, sizes.hbm_blocks, sizes.host_blocks, model.dtype, device)
    if device is not None:
        executor = device_executor(model, arenas, specs, config, clock, device, graphs, beside)
        return LaneCopier(arenas, store, device), executor
    computing = TorchExecutor(model, arenas.hbm, specs, config.block_tokens, clock, beside=beside)
    if isinstance(clock, WallClock):
        arenas.touch()
        computing.warm_up()
    return ArenaCopier(arenas, store), computing


def device_executor(
    model: LlamaModel,
    arenas: Arenas,
    adapters: Mapping[str, AdapterSpec],
    config: EngineConfig,
    clock: Clock,
    device: Device,
    graphs: bool = True,
    beside: bool = False,
) -> DeviceExecutor:
    """An executor over ``arenas``, warmed up; ``beside``: its ``while_busy`` is called. Where a kernel of the model's
    backend does not compile, it computes with torch, says why in its ``fallback``, and warns.

    Raises LibraError when the device's memory does not suffice, naming the settings that need less of it.
    """
    buckets = fitting_buckets(config.max_num_seqs) if graphs else ()

    def make(network: LlamaModel, fallback: str | None) -> DeviceExecutor:
        executor = DeviceExecutor(
            network,
            arenas.hbm,
            adapters,
            config.block_tokens,
            clock,
            device,
            buckets=buckets,
            fallback=fallback,
            beside=beside,
        )
        executor.warm_up(config.max_num_batched_tokens)
        return executor

    try:
        return make(model, None)
    except Exception as error:
        if device.is_out_of_memory(error):
            raise LibraError(
                f"{device.describe()} runs out of memory for a step beside a cache of {len(arenas.hbm)} blocks; lower "
                "--hbm-cache-gib or --cache-fraction, else --max-num-batched-tokens or --max-num-seqs"
            ) from error
        fault = compile_fault(error)
        if fault is None:
            raise
    reason = f"the kernels of --backend {model.backend.name} do not compile ({fault})"
    warnings.warn(BackendFallback(f"{reason}; computing with torch instead, which is slower"), stacklevel=2)
    return make(model.with_backend(TorchBackend()), reason)


def _fill_host(manager: CacheManager, copier: TierCopier) -> None:
    """Puts the weights of every adapter that is at home in host memory there."""
    tree = manager.memory.tree
    for adapter_id, node in tree.adapter_nodes.items():
        if adapter_id is not None and tree.host[node] == PRESENT:
            copier.fill_host(adapter_id, tree.host_blocks[node])


def find_adapters(directory: Path) -> list[Path]:
    """The PEFT directories directly below ``directory``, by name."""
    return sorted(path.parent for path in directory.glob("*/adapter_config.json"))
