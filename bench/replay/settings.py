"""Options of `libra replay`, with their defaults in one place; the command line reads them from here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from libra.errors import LibraError, unknown
from workloads.demand import Demand

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


class PromptForm(StrEnum):
    """How a prompt is sent."""

    TOKENS = "tokens"
    TEXT = "text"


class AnswerSource(StrEnum):
    """What later turns of a session hold as the earlier answers."""

    RECORDED = "recorded"
    SERVER = "server"


class EventLoop(StrEnum):
    """The event loop of the senders."""

    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"


@dataclass(frozen=True)
class ReplaySettings:
    """What to send, where to, and what the answers must meet. None means "not given".

    Rates are requests per second (inf: all at once), times seconds. ``base_share`` is the share of sessions that is
    sent to the base model instead of its adapter. ``slo_target`` is the share of requests that must meet ``goodput``;
    ``max_send_lag_ms`` the 99th percentile of the generator's own delay up to which a run is valid. ``loop`` None is
    uvloop where it is installed, else asyncio.
    """

    url: str
    workload: str | None = None
    trace: Path | None = None
    endpoint: str = COMPLETIONS
    prompt: PromptForm = PromptForm.TOKENS
    model: str | None = None
    lora_model_map: str | None = None
    answers: AnswerSource = AnswerSource.RECORDED
    num_loras: int | None = None
    request_rate: float | None = None
    duration_s: float | None = None
    popularity: str | None = None
    arrivals: str = Demand.arrivals
    burstiness: float = Demand.burstiness
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    base_share: float = 0.0
    vocab_size: int | None = None
    seed: int = 0
    num_warmups: int = 1
    warmup_s: float = 0.0
    max_concurrency: int | None = None
    workers: int = 1
    loop: EventLoop | None = None
    retries: int = 0
    request_timeout_s: float = 600.0
    ready_check_timeout_s: float = 0.0
    ignore_eos: bool = True
    temperature: float = 0.0
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    goodput: tuple[str, ...] = ()
    slo_target: float = 0.99
    max_send_lag_ms: float = 10.0
    scrape_interval_s: float | None = None
    label: str | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        if (self.workload is None) == (self.trace is None):
            raise LibraError("name either --workload (chatbot, agents, ...) or --trace FILE, not both or none")
        if self.trace is not None and (self.arrivals, self.burstiness) != (Demand.arrivals, Demand.burstiness):
            raise LibraError("--arrivals and --burstiness are for --workload: a trace has its own; leave them out")
        if self.endpoint not in (COMPLETIONS, CHAT):
            raise unknown("--endpoint", self.endpoint, (COMPLETIONS, CHAT))
        if self.endpoint == CHAT and self.prompt is PromptForm.TOKENS:
            raise LibraError(f"{CHAT} takes no token ids; add --prompt text, or use --endpoint {COMPLETIONS}")
        self._check_numbers()

    def _check_numbers(self) -> None:
        at_least = {
            "num_loras": 1,
            "num_warmups": 0,
            "max_concurrency": 1,
            "workers": 1,
            "retries": 0,
            "seed": 0,
            "warmup_s": 0,
            "base_share": 0,
            "vocab_size": 2,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise LibraError(f"{_flag(name)} is {value}; it must be {least} or more")
        if self.request_rate is not None and not self.request_rate > 0:
            raise LibraError(f"--request-rate is {self.request_rate}; it must be positive, or inf for all at once")
        for name in ("duration_s", "request_timeout_s", "scrape_interval_s", "max_send_lag_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise LibraError(f"{_flag(name)} is {value}; it must be positive and finite")
        if self.base_share > 1 or not 0 < self.slo_target <= 1:
            raise LibraError("--base-share and --slo-target are shares from 0 to 1, such as 0.1 and 0.99")
        if self.max_concurrency is not None and self.max_concurrency < self.workers:
            raise LibraError(f"--max-concurrency {self.max_concurrency} is less than --workers {self.workers}")


def _flag(name: str) -> str:
    flag = {"warmup_s": "warmup_duration", "scrape_interval_s": "scrape"}.get(name, name)
    return "--" + flag.removesuffix("_s").replace("_", "-")
