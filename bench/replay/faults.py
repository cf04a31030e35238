"""Why a request got no answer, by kind, so that failures are counted and never hidden."""

from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """HTTP faults are counted by status: the kind is HTTP and the label ``http 429``."""

    CONNECT = "connect"
    HTTP = "http"
    RESET = "reset"
    TIMEOUT = "timeout"
    MALFORMED = "malformed"
    ERROR_EVENT = "error in stream"
    NOT_STREAMED = "not streamed"
    CUT_SHORT = "cut short"
    EMPTY = "no tokens"
    NO_TOKEN_IDS = "no token ids"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Fault:
    """One failure. ``status`` is the HTTP status where there was one; ``retry_after_s`` what the server asked for."""

    kind: FaultKind
    detail: str = ""
    status: int | None = None
    retry_after_s: float | None = None

    @property
    def label(self) -> str:
        """What failures are counted by."""
        return f"http {self.status}" if self.kind is FaultKind.HTTP else str(self.kind)

    @property
    def is_refusal(self) -> bool:
        """The server said no before it did any work: a 4xx answer, or 503 while it starts or drains."""
        return self.kind is FaultKind.HTTP and self.status is not None and (self.status < 500 or self.status == 503)

    @property
    def is_transient(self) -> bool:
        """Sending the request again may help: no connection, 408, 425, 429, 502, 503 or 504."""
        if self.kind is FaultKind.HTTP:
            return self.status in (408, 425, 429, 502, 503, 504)
        return self.kind is FaultKind.CONNECT

    def __str__(self) -> str:
        return f"{self.label}: {self.detail}" if self.detail else self.label


class HttpFault(Exception):
    """The peer broke HTTP or server-sent events; the message says how."""
