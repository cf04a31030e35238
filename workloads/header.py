"""The first line of a trace: what it is, how it was made, and where each field comes from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from libra.errors import unknown
from workloads.rows import FieldFault, integer, require_known, seconds, text

SCHEMA_VERSION = 1
SOURCES = ("native", "mapped", "drawn", "generated")
VERSION_FIELD = "libra_trace"


@dataclass(frozen=True)
class Provenance:
    """Where each field of the requests comes from.

    native: as the source records it; mapped: computed from another recorded field; drawn: sampled from a named
    distribution onto recorded requests; generated: made by a workload generator.
    """

    adapter_source: str
    arrival_source: str
    length_source: str
    prefix_source: str


@dataclass(frozen=True)
class TraceHeader:
    """What a trace is and how it was made.

    ``adapters`` maps every adapter id to its rank, or to None where the trace does not say. ``duration_s`` is the
    window the requests were observed in, so a rate is requests / duration. ``counts`` holds rows skipped, cut or
    capped, by reason; ``warnings`` says where the trace is not what its name suggests.
    """

    name: str
    seed: int
    provenance: Provenance
    duration_s: float
    adapters: Mapping[str, int | None]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


HEADER_FIELDS = frozenset(
    {
        VERSION_FIELD,
        "name",
        "seed",
        "adapter_source",
        "arrival_source",
        "length_source",
        "prefix_source",
        "duration_s",
        "num_requests",
        "adapters",
        "parameters",
        "counts",
        "warnings",
    }
)


def header_row(header: TraceHeader, num_requests: int) -> dict[str, Any]:
    """The header as the JSON object of a trace's first line."""
    return {
        VERSION_FIELD: SCHEMA_VERSION,
        "name": header.name,
        "seed": header.seed,
        **asdict(header.provenance),
        "duration_s": header.duration_s,
        "num_requests": num_requests,
        "adapters": dict(header.adapters),
        "parameters": dict(header.parameters),
        "counts": dict(header.counts),
        "warnings": list(header.warnings),
    }


def parse_header(row: object) -> tuple[TraceHeader, int | None]:
    """The header of a trace's first line, and the number of requests it announces, if it does.

    ``num_requests``, ``adapters``, ``parameters``, ``counts`` and ``warnings`` may be left out of a hand-written
    trace. Raises FieldFault for a wrong value and LibraError for an unknown field.
    """
    if type(row) is not dict or VERSION_FIELD not in row:
        raise FieldFault(VERSION_FIELD, "is missing: the first line must be a libra trace header")
    if row[VERSION_FIELD] != SCHEMA_VERSION:
        raise FieldFault(
            VERSION_FIELD,
            f"is {row[VERSION_FIELD]!r}, a schema version this libra does not know (it reads {SCHEMA_VERSION}): "
            "make the trace again, or use the libra that wrote it",
        )
    require_known(row, HEADER_FIELDS, "header field")
    header = TraceHeader(
        name=text(row, "name"),
        seed=integer(row, "seed", 0),
        provenance=_provenance(row),
        duration_s=_duration(row),
        adapters=_adapters(row.get("adapters", {})),
        parameters=_mapping("parameters", row.get("parameters", {})),
        counts=_counts(row.get("counts", {})),
        warnings=_warnings(row.get("warnings", [])),
    )
    return header, integer(row, "num_requests", 0) if "num_requests" in row else None


def _provenance(row: dict[str, Any]) -> Provenance:
    values = {name: text(row, name) for name in Provenance.__dataclass_fields__}
    for name, value in values.items():
        if value not in SOURCES:
            raise unknown(name, value, SOURCES)
    return Provenance(**values)


def _duration(row: dict[str, Any]) -> float:
    duration_s = seconds(row, "duration_s")
    if duration_s == 0:
        raise FieldFault("duration_s", "is 0; it is the window of the trace and must be positive")
    return duration_s


def _mapping(field_name: str, value: object) -> dict[str, Any]:
    if type(value) is not dict:
        raise FieldFault(field_name, "must be a JSON object")
    return value


def _adapters(value: object) -> dict[str, int | None]:
    adapters = _mapping("adapters", value)
    for adapter_id, rank in adapters.items():
        if rank is not None and (type(rank) is not int or rank < 1):
            raise FieldFault("adapters", f"gives {adapter_id!r} the rank {rank!r}; a rank is 1 or more, or null")
    return adapters


def _counts(value: object) -> dict[str, int]:
    counts = _mapping("counts", value)
    for reason, count in counts.items():
        if type(count) is not int or count < 0:
            raise FieldFault("counts", f"gives {reason!r} the count {count!r}; a count is 0 or more")
    return counts


def _warnings(value: object) -> tuple[str, ...]:
    if type(value) is not list or any(type(warning) is not str for warning in value):
        raise FieldFault("warnings", "must be a list of strings")
    return tuple(value)
