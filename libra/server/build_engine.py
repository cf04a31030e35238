"""Puts the engine behind a server together, in the process where it runs."""

import math
from collections.abc import Mapping

from libra.engine.build import CacheSizes
from libra.engine.build_real import RealLink, build_real_engine, load_network, open_device
from libra.engine.device import CpuDevice
from libra.kernels.backend import make_backend
from libra.model.adapter import AdapterSource
from libra.model.adapter_store import AdapterStore
from libra.server.engine_loop import EngineParts
from libra.server.settings import EngineSettings
from libra.spec import GIB


def build_engine(wanted: EngineSettings, adapters: Mapping[str, AdapterSource], may_grow: bool) -> EngineParts:
    """Loads the model; ``may_grow``: adapters of any rank allowed may come later. Raises LibraError for whatever is
    broken or does not fit."""
    config = wanted.config
    device = open_device(wanted.device)
    network = load_network(wanted.model, wanted.dtype, make_backend(wanted.backend), device)
    spec = network.spec
    store = AdapterStore(spec, config.block_tokens, network.dtype, wanted.max_rank)
    for source in adapters.values():
        store.register(source)
    hbm_bytes = wanted.hbm_cache_gib * GIB
    if math.isinf(hbm_bytes):
        hbm_bytes = (device or CpuDevice()).cache_bytes(spec)
    sizes = CacheSizes.from_bytes(hbm_bytes, wanted.host_cache_gib * GIB, spec.block_bytes(config.block_tokens))
    if may_grow:
        sizes = CacheSizes(sizes.hbm_blocks, sizes.host_blocks, wanted.max_rank)
    engine = build_real_engine(
        wanted.policy(),
        network,
        store,
        list(store),
        sizes,
        config,
        RealLink(wanted.link_gbps),
        device=device,
        graphs=not wanted.enforce_eager,
    )
    return EngineParts(engine, store)
