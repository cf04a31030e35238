"""What servers tell beyond OpenAI's API: who they are, and where a request's time went.

The contract with `libra serve`, names as in ``RequestRecord``:

* the base model's card in ``/v1/models`` has ``"owned_by": "libra"`` and an object ``"libra"`` with ``vocab_size``,
  ``policy`` and ``device``;
* the last event's ``usage`` has an object ``"libra"`` with ``adapter_tier``, ``queue_s``, ``evict_wait_s``,
  ``adapter_load_s``, ``kv_load_s``, ``prefill_s``, ``hbm_hit_tokens``, ``host_hit_tokens`` and ``preemptions``.

vLLM started with ``--enable-per-request-metrics`` answers ``"include_metrics": true`` with an object ``"metrics"``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LIBRA, VLLM = "libra", "vllm"


@dataclass(frozen=True, slots=True)
class ServerTimes:
    """Where the server says a request's time went, in seconds; see RequestRecord.

    ``adapter_tier`` is "" and the hits None where only times are told.
    """

    queue_s: float
    prefill_s: float
    evict_wait_s: float = 0.0
    adapter_load_s: float = 0.0
    kv_load_s: float = 0.0
    adapter_tier: str = ""
    hbm_hit_tokens: int | None = None
    host_hit_tokens: int | None = None
    preemptions: int = 0


def server_times(document: Mapping[str, Any]) -> ServerTimes | None:
    """The times in a ``usage`` object of libra, or beside one in an answer of vLLM; None where there are none."""
    told = document.get(LIBRA)
    if isinstance(told, dict):
        known = {name: told[name] for name in ServerTimes.__dataclass_fields__ if name in told}
        return ServerTimes(**{"queue_s": 0.0, "prefill_s": 0.0, **known})
    told = document.get("metrics")
    if isinstance(told, dict) and told.get("queue_time_ms") is not None:
        # vLLM counts its time to the first token from when it scheduled the request.
        return ServerTimes(told["queue_time_ms"] / 1e3, (told.get("time_to_first_token_ms") or 0.0) / 1e3)
    return None
