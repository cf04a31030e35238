"""Puts the event loop's side of a server together, from the same directories as the engine. Needs no torch."""

from dataclasses import dataclass
from functools import partial

from libra.errors import LibraError
from libra.model.adapter import AdapterSource
from libra.model.config import ModelConfig, read_config
from libra.model.files import read_json
from libra.model.tokenizer import Tokenizer
from libra.server.adapter_files import AdapterReader, read_adapters
from libra.server.adapters import AdapterCatalog
from libra.server.chat_template import ChatTemplate
from libra.server.engine_client import EngineClient
from libra.server.engine_loop import EngineParts
from libra.server.generation import ServedModel
from libra.server.request_log import RequestLog
from libra.server.server import Server
from libra.server.settings import EngineSettings, ServerSettings


@dataclass(frozen=True)
class Front:
    """All of a server but its engine."""

    settings: ServerSettings
    engine: EngineSettings
    policy_name: str
    model: ServedModel
    reader: AdapterReader
    adapters: dict[str, AdapterSource]
    template: ChatTemplate
    request_log: RequestLog | None


def build_front(settings: ServerSettings, wanted: EngineSettings) -> Front:
    """Raises LibraError for whatever is missing, broken or does not go together, and for a policy that must know the
    requests to come."""
    policy = wanted.policy()
    if policy.ranker.needs_future:
        raise LibraError(
            f"policy {policy.name!r} must know the requests to come and cannot serve; use it in libra bench"
        )
    tokenizer = Tokenizer(wanted.model)
    template = ChatTemplate(wanted.model)
    config = read_config(wanted.model, wanted.dtype)
    reader = AdapterReader(config.spec, wanted.config.block_tokens, wanted.max_rank)
    adapters = read_adapters(reader, wanted.adapters, settings.lora_dirs)
    if settings.model_name in adapters:
        raise LibraError(f"{settings.model_name!r} is both the base model and an adapter; use --served-model-name")
    request_log = None
    if settings.request_log is not None:
        request_log = RequestLog(settings.request_log, wanted.config.block_tokens, tokenizer, settings.request_log_text)
    model = ServedModel(
        name=settings.model_name,
        tokenizer=tokenizer,
        vocab_size=config.spec.vocab_size,
        max_length=_max_length(config, wanted.max_model_len),
        eos_token_ids=_end_tokens(config),
    )
    return Front(settings, wanted, policy.name, model, reader, adapters, template, request_log)


def make_engine(front: Front) -> "partial[EngineParts]":
    """What makes the engine of this server, in whichever process it is called."""
    return partial(_build_engine, front.engine, front.adapters, bool(front.settings.lora_dirs))


def _build_engine(wanted: EngineSettings, adapters: dict[str, AdapterSource], may_grow: bool) -> EngineParts:
    try:
        from libra.server.build_engine import build_engine  # torch, which the event loop's process does without
    except ImportError as error:
        raise LibraError(f"{error.name} is missing; pip install 'libra-lora[engine,server]'") from error

    return build_engine(wanted, adapters, may_grow)


def make_server(front: Front, engine: EngineClient) -> Server:
    """The server over an engine that is ready."""
    paths = {name: source.directory for name, source in front.adapters.items()}
    catalog = AdapterCatalog(engine, front.reader, front.settings.lora_dirs, paths)
    room = front.engine.config.max_num_seqs + front.settings.max_queue
    return Server(
        front.settings, engine, front.policy_name, room, front.model, catalog, front.template, front.request_log
    )


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
