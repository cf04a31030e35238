"""What a reader found in a published trace, before its requests are given adapters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from libra.errors import LibraError
from libra.request import Request
from workloads.adapter_mapping import give_adapters
from workloads.formats import ReadOptions
from workloads.header import Provenance, TraceHeader
from workloads.trace import Trace
from workloads.transform import window


@dataclass(frozen=True)
class Recorded:
    """Requests of a source, sorted by arrival, without adapters (``Request.adapter`` is None).

    ``keys`` has one entry per request: the recorded adapter where ``provenance.adapter_source`` is native, or the
    value that stands for one where it is mapped (``key_name`` says which field that is); None in it is the plain base
    model. ``keys`` is None where it is drawn. ``sampled`` says that the reader has applied ``start_s`` and ``span_s``
    of the options itself. See TraceHeader for the rest.
    """

    name: str
    format: str
    requests: Sequence[Request]
    duration_s: float
    provenance: Provenance
    keys: Sequence[str | None] | None = None
    key_name: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    sampled: bool = False

    def trace(self, options: ReadOptions) -> Trace:
        """The trace: cut to the options' part of the source, with adapters. Raises LibraError."""
        if not self.requests:
            skipped = ", ".join(f"{reason.replace('_', ' ')}: {count}" for reason, count in self.counts.items())
            raise LibraError(f"{self.name}: no request in this {self.format} source{skipped and f' ({skipped})'}")
        header = TraceHeader(
            name=self.name,
            seed=options.seed,
            provenance=self.provenance,
            duration_s=self.duration_s,
            adapters={},
            parameters={"format": self.format, **self.parameters},
            counts=dict(self.counts),
            warnings=self.warnings,
        )
        trace, keys = Trace(header, tuple(self.requests)), self.keys
        if not self.sampled and (options.start_s or options.span_s is not None):
            trace, keys = self._part(trace, options)
        return give_adapters(trace, keys, self.key_name, options.adapters)

    def _part(self, trace: Trace, options: ReadOptions) -> tuple[Trace, Sequence[str | None] | None]:
        part = window(trace, options.span_s or trace.header.duration_s, options.start_s)
        noted = {**part.header.parameters, "source_start_s": options.start_s}
        part = Trace(replace(part.header, parameters=noted), part.requests)
        if self.keys is None:
            return part, None
        by_id = {request.id: key for request, key in zip(self.requests, self.keys, strict=True)}
        return part, [by_id[request.id] for request in part.requests]
