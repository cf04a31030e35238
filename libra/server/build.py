"""Puts a server together: model, adapters, engine and tokenizer from their directories."""

import asyncio
import math
from dataclasses import dataclass
from pathlib import Path

from libra.engine.build import CacheSizes
from libra.engine.build_real import RealLink, build_real_engine, load_network, open_device
from libra.engine.device import CpuDevice
from libra.engine.engine import Engine
from libra.errors import LibraError
from libra.kernels.backend import make_backend
from libra.model.adapter import DEFAULT_MAX_LORA_RANK
from libra.model.adapter_store import AdapterStore
from libra.model.config import ModelConfig
from libra.model.files import read_json
from libra.model.tokenizer import Tokenizer
from libra.server.adapters import AdapterCatalog, read_adapters
from libra.server.chat_template import ChatTemplate
from libra.server.engine_thread import EngineThread
from libra.server.generation import ServedModel
from libra.server.request_log import RequestLog
from libra.server.server import Server
from libra.server.settings import EngineSettings, ServerSettings
from libra.spec import GIB


@dataclass(frozen=True)
class Parts:
    """A server's parts before it has an event loop."""

    settings: ServerSettings
    engine: Engine
    model: ServedModel
    store: AdapterStore
    paths: dict[str, Path]
    template: ChatTemplate
    request_log: RequestLog | None


def build_parts(settings: ServerSettings, wanted: EngineSettings) -> Parts:
    """Loads everything. Raises LibraError for whatever is missing, broken or does not fit, and for a policy that must
    know the requests to come."""
    if wanted.policy.ranker.needs_future:
        raise LibraError(
            f"policy {wanted.policy.name!r} must know the requests to come and cannot serve; use it in libra bench"
        )
    tokenizer = Tokenizer(wanted.model)
    template = ChatTemplate(wanted.model)
    device = open_device(wanted.device)
    network = load_network(wanted.model, wanted.dtype, make_backend(wanted.backend), device)
    spec, config = network.spec, wanted.config
    max_lora_rank = wanted.max_lora_rank or DEFAULT_MAX_LORA_RANK
    store = AdapterStore(spec, config.block_tokens, network.dtype, max_lora_rank)
    paths = read_adapters(store, wanted.adapters, settings.lora_dirs)
    if settings.model_name in paths:
        raise LibraError(f"{settings.model_name!r} is both the base model and an adapter; use --served-model-name")
    block_bytes = spec.block_bytes(config.block_tokens)
    hbm_bytes = wanted.hbm_cache_gib * GIB
    if math.isinf(hbm_bytes):
        hbm_bytes = (device or CpuDevice()).cache_bytes(spec)
    sizes = CacheSizes.from_bytes(hbm_bytes, wanted.host_cache_gib * GIB, block_bytes)
    if settings.lora_dirs:
        sizes = CacheSizes(sizes.hbm_blocks, sizes.host_blocks, max_lora_rank)
    request_log = None
    if settings.request_log is not None:
        request_log = RequestLog(settings.request_log, config.block_tokens, tokenizer, settings.request_log_text)
    link, graphs = RealLink(wanted.link_gbps), not wanted.enforce_eager
    engine = build_real_engine(
        wanted.policy, network, store, list(store), sizes, config, link, device=device, graphs=graphs
    )
    model = ServedModel(
        name=settings.model_name,
        tokenizer=tokenizer,
        vocab_size=spec.vocab_size,
        max_length=_max_length(network.config, wanted.max_model_len),
        eos_token_ids=_end_tokens(network.config),
    )
    return Parts(settings, engine, model, store, paths, template, request_log)


def make_server(parts: Parts) -> Server:
    """The server in the running event loop, its engine started."""
    engine = EngineThread(parts.engine, asyncio.get_running_loop())
    catalog = AdapterCatalog(engine, parts.store, parts.settings.lora_dirs, parts.paths)
    engine.start()
    return Server(parts.settings, engine, parts.model, catalog, parts.template, parts.request_log)


def _max_length(config: ModelConfig, wanted: int | None) -> int:
    if wanted is None:
        return config.max_length
    if not 2 <= wanted <= config.max_length:
        raise LibraError(f"--max-model-len {wanted}: must lie between 2 and the model's {config.max_length}")
    return wanted


def _end_tokens(config: ModelConfig) -> frozenset[int]:
    """What ends an answer: chat models name further tokens in generation_config.json."""
    path = config.directory / "generation_config.json"
    more = read_json(path).get("eos_token_id") if path.exists() else None
    listed = [] if more is None else more if isinstance(more, list) else [more]
    return frozenset(config.eos_token_ids) | {int(token) for token in listed}
