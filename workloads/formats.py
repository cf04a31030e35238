"""What every reader of a published trace has in common: the protocol, and the options of a conversion."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from libra.errors import LibraError, unknown
from libra.spec import GIB
from workloads.arrivals import check_burstiness
from workloads.demand import Demand, check_num_adapters
from workloads.header import Provenance
from workloads.text import TextOptions
from workloads.trace import Trace

ADAPTER_SOURCES = ("native", "mapped", "drawn")
OTHER_KEYS = ("share", "drop")
DEFAULT_MAX_INPUT_GIB = 2.0
DEFAULT_MAX_BYTES = int(DEFAULT_MAX_INPUT_GIB * GIB)
DEFAULT_DRAWN_ADAPTERS = 50


@dataclass(frozen=True)
class AdapterMapping:
    """How the requests of a published trace get their adapters; workloads.adapter_mapping does it.

    ``source`` is native (the adapter the trace records), mapped (one adapter per value of another recorded field: the
    reader's key) or drawn (from ``popularity``, zipf:1.0 when None); None takes the first of these that the format has.
    ``num_adapters`` None means every key, or 50 drawn ones. With fewer adapters than keys the n keys of most requests
    keep an adapter each, and the requests of the others share those adapters or are dropped (``other_keys``).
    ``per_request`` draws for every request instead of every session, which destroys prefix reuse.
    Raises LibraError for options that contradict each other.
    """

    num_adapters: int | None = None
    popularity: str | None = None
    source: str | None = None
    other_keys: str = "share"
    per_request: bool = False

    def __post_init__(self) -> None:
        if self.source is not None and self.source not in ADAPTER_SOURCES:
            raise unknown("adapter source", self.source, ADAPTER_SOURCES)
        if self.other_keys not in OTHER_KEYS:
            raise unknown("use of other keys", self.other_keys, OTHER_KEYS)
        if self.num_adapters is not None:
            check_num_adapters(self.num_adapters)
        if self.source in ("native", "mapped"):
            if self.popularity is not None:
                raise LibraError(
                    f"--popularity {self.popularity} draws adapters; leave it out with --adapters {self.source}"
                )
            if self.per_request:
                raise LibraError(f"--adapter-per request draws adapters; leave it out with --adapters {self.source}")


@dataclass(frozen=True)
class ReadOptions:
    """Options that every reader takes.

    ``max_bytes`` limits the input, after decompression, of all files together. ``start_s`` and ``span_s`` choose a
    part of the source in its own seconds. ``request_rate`` (requests per second; None is the reader's default),
    ``arrivals`` and ``burstiness`` are for sources that record no arrival times, as in workloads.demand, and
    ``arrivals`` takes the place of the times that a source of words records; None is poisson where there are none. A
    reader that makes arrivals at a rate says so as ``request_rate`` in the header's parameters, and the caller
    stretches the trace of any other. ``text`` is for sources of words. Raises LibraError for a value out of range.
    """

    adapters: AdapterMapping = field(default_factory=AdapterMapping)
    seed: int = Demand.seed
    max_bytes: int = DEFAULT_MAX_BYTES
    start_s: float = 0.0
    span_s: float | None = None
    request_rate: float | None = None
    arrivals: str | None = None
    burstiness: float = Demand.burstiness
    text: TextOptions = field(default_factory=TextOptions)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise LibraError(f"--seed is {self.seed}; it must be 0 or more")
        if not (self.start_s >= 0 and math.isfinite(self.start_s)):
            raise LibraError(f"--source-start is {self.start_s}; it must be finite and 0 or more")
        check_burstiness(self.burstiness)
        for flag, value in (("--source-duration", self.span_s), ("--request-rate", self.request_rate)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise LibraError(f"{flag} is {value}; it must be positive and finite")

    @property
    def drawn_arrivals(self) -> str:
        """The process to draw from where times are drawn."""
        return self.arrivals or Demand.arrivals


def input_limit(gib: float) -> int:
    """A limit in GiB as bytes. Raises LibraError where it is none."""
    if not 0 < gib < math.inf:
        raise LibraError(f"--max-input-gib is {gib:g}; it must be positive and finite")
    return max(1, int(gib * GIB))


class TraceReader(Protocol):
    """One published trace format. A module each, registered in workloads.registry."""

    @property
    def name(self) -> str:
        """The name ``--format`` knows it by."""

    @property
    def summary(self) -> str:
        """One line for a list of choices."""

    @property
    def required_columns(self) -> tuple[frozenset[str], ...]:
        """Alternatives: a file whose first row has all the columns (CSV) or keys (JSON) of one is taken to be of this
        format, and of alternatives in several formats the largest wins. Empty: only ``--format`` chooses it."""

    @property
    def provenance(self) -> Provenance:
        """Where each field of the converted trace comes from, at best: a reader may find less in a file, and
        AdapterMapping may ask for other adapters."""

    def read(self, paths: Sequence[Path], options: ReadOptions) -> Trace:
        """Converts files, folders and archives, in the order given (see workloads.sources).

        Raises LibraError, naming file, row and field, for a row that is not of the format; counts in the header what
        is skipped. Usually parses into a workloads.recorded.Recorded and returns its ``trace(options)``.
        """
