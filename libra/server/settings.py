"""Settings of the server, with their defaults in one place."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from libra.cache.policy import CachePolicy
from libra.engine.config import EngineConfig
from libra.errors import LibraError
from libra.model.adapter import DEFAULT_MAX_LORA_RANK

MIB = 1 << 20


@dataclass(frozen=True)
class EngineSettings:
    """The engine behind a server. ``policy`` makes its policy; like all of this it travels to the engine's process, and
    is a function that can be imported there, or a partial of one.

    ``adapters``: name -> PEFT directory, beside those in the server's ``lora_dirs``.
    None: the model's longest context; the largest rank that adapters may have by default; a link as fast as it is.
    ``hbm_cache_gib`` infinite: what ``device``, cpu or cuda, has left after the weights."""

    policy: Callable[[], CachePolicy]
    model: Path
    adapters: Mapping[str, Path] = field(default_factory=dict)
    max_lora_rank: int | None = None
    max_model_len: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    backend: str = "torch"
    enforce_eager: bool = False
    hbm_cache_gib: float = 1.0
    host_cache_gib: float = 4.0
    link_gbps: float | None = None
    config: EngineConfig = field(default_factory=lambda: EngineConfig(timeline_s=None))

    def __post_init__(self) -> None:
        if not (self.hbm_cache_gib > 0 and 0 <= self.host_cache_gib < math.inf):
            raise LibraError(
                f"--hbm-cache-gib {self.hbm_cache_gib:g}, --host-cache-gib {self.host_cache_gib:g}: not sizes of memory"
            )

    @property
    def max_rank(self) -> int:
        return self.max_lora_rank or DEFAULT_MAX_LORA_RANK


@dataclass(frozen=True)
class ServerSettings:
    """``model_name`` is what clients ask for. ``lora_dirs`` are the only places from which clients may have adapters
    loaded, by path or, for their direct children, by name.

    ``max_queue``: requests that may wait beyond those being computed. ``request_timeout_s``: from the request's arrival
    to its last token. ``read_timeout_s``: what a request's head may take to come, and then its body; a connection kept
    open goes after as long without a request. ``drain_timeout_s``: what open requests get when the server is told to
    stop.
    ``api_key``: None lets everybody in, and an empty one would.
    ``cache_salt`` "user": KV is shared only among requests with the same ``user`` field.
    ``request_log_text`` adds prompts and answers to ``request_log``.
    """

    model_name: str
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    lora_dirs: tuple[Path, ...] = ()
    max_queue: int = 1024
    request_timeout_s: float = 600.0
    read_timeout_s: float = 75.0
    drain_timeout_s: float = 30.0
    max_body_bytes: int = 8 * MIB
    cache_salt: Literal["none", "user"] = "none"
    request_log: Path | None = None
    request_log_text: bool = False

    def __post_init__(self) -> None:
        if self.max_queue < 0 or not self.drain_timeout_s >= 0:
            raise LibraError("--max-queue and --drain-timeout must be at least 0")
        if min(self.request_timeout_s, self.read_timeout_s) <= 0 or self.max_body_bytes < 1:
            raise LibraError("--request-timeout, --read-timeout and --max-body-mib must be above 0")
        if not 0 <= self.port < 1 << 16:
            raise LibraError(f"--port {self.port}: must lie between 0 and 65535")
        if self.api_key == "":
            raise LibraError("--api-key (or LIBRA_API_KEY) is empty and would let everybody in; give a key, or neither")
        if self.request_log_text and self.request_log is None:
            raise LibraError("--request-log-text needs --request-log FILE")
        for directory in self.lora_dirs:
            if not directory.is_dir():
                raise LibraError(f"--lora-dir {directory}: no such directory")
