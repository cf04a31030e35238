"""The step that gives the requests of a published trace their adapters: as recorded, by key, or drawn."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from libra.errors import LibraError
from libra.request import Request
from workloads.adapters import adapter_names
from workloads.formats import DEFAULT_DRAWN_ADAPTERS, AdapterMapping
from workloads.garbage import collection_paused
from workloads.popularity import DEFAULT_POPULARITY, parse_popularity
from workloads.prefixes import infinite_cache_hits
from workloads.seeds import generator
from workloads.trace import Trace


@collection_paused()
def give_adapters(trace: Trace, keys: Sequence[str | None] | None, key_name: str, mapping: AdapterMapping) -> Trace:
    """``trace`` with adapters, and a header that says where they come from.

    ``keys`` has a key per request, or is None where the format has none; see workloads.recorded. A session whose
    requests have several adapters becomes one session per adapter. Raises LibraError for a mapping that the format
    cannot serve.
    """
    offered = trace.header.provenance.adapter_source
    source = mapping.source or ("drawn" if keys is None or mapping.popularity or mapping.per_request else offered)
    if source == "drawn":
        return _drawn(trace, mapping)
    if keys is None or source != offered:
        kept = "" if keys is None else f"{offered} or "
        raise LibraError(f"--adapters {source}: {trace.header.name} has no such field; use --adapters {kept}drawn")
    return _by_key(trace, keys, key_name, mapping)


def _drawn(trace: Trace, mapping: AdapterMapping) -> Trace:
    names = adapter_names(mapping.num_adapters or DEFAULT_DRAWN_ADAPTERS)
    popularity = mapping.popularity or DEFAULT_POPULARITY
    per_session = _draw([_owner(request) for request in trace.requests], names, popularity, trace.header.seed)
    noted: dict[str, Any] = {"num_adapters": len(names), "popularity": popularity}
    if not mapping.per_request:
        return _finished(trace, per_session, names, "drawn", noted)
    before = infinite_cache_hits(_finished(trace, per_session, names, "drawn", noted).requests).rate
    per_request = _draw([request.id for request in trace.requests], names, popularity, trace.header.seed)
    result = _finished(trace, per_request, names, "drawn", {**noted, "adapter_per": "request"})
    after = infinite_cache_hits(result.requests).rate
    warning = (
        "adapters are drawn per request, so a session has several: "
        f"infinite-cache prefix hits are {after:.1%} of prompt tokens and would be {before:.1%} per session"
    )
    return Trace(replace(result.header, warnings=(*result.header.warnings, warning)), result.requests)


def _draw(owners: Sequence[str | int], names: Sequence[str], popularity: str, seed: int) -> list[str | None]:
    """An adapter per owner, in the order of first appearance, repeated for each of the owner's requests."""
    order = list(dict.fromkeys(owners))
    indices = parse_popularity(popularity).assign(generator(seed, "adapters"), len(order), len(names))
    chosen = {owner: names[index] for owner, index in zip(order, indices.tolist(), strict=True)}
    return [chosen[owner] for owner in owners]


def _owner(request: Request) -> str | int:
    return request.id if request.session is None else request.session


def _by_key(trace: Trace, keys: Sequence[str | None], key_name: str, mapping: AdapterMapping) -> Trace:
    counted = Counter(key for key in keys if key is not None)
    ranked = [key for key, _ in counted.most_common()]
    wanted = len(ranked) if mapping.num_adapters is None else mapping.num_adapters
    if wanted > len(ranked):
        raise LibraError(
            f"--num-loras {wanted}: {trace.header.name} has {len(ranked)} of {key_name}; "
            f"use --num-loras {len(ranked)} or less, or draw adapters with --popularity"
        )
    names, source = tuple(ranked[:wanted]), trace.header.provenance.adapter_source
    noted: dict[str, Any] = {"adapter_key": key_name, "num_keys": len(ranked)}
    others = sum(counted[key] for key in ranked[wanted:])
    adapter_of: dict[str | None, str] = {key: names[rank % wanted] for rank, key in enumerate(ranked)}
    if others and mapping.other_keys == "drop":
        kept = set(names)
        chosen = [
            (request, key) for request, key in zip(trace.requests, keys, strict=True) if key is None or key in kept
        ]
        header = replace(trace.header, counts={**trace.header.counts, "skipped_of_other_keys": others})
        trace, keys = Trace(header, tuple(request for request, _ in chosen)), [key for _, key in chosen]
    elif others:
        source = "mapped"
        counts = {**trace.header.counts, "requests_of_other_keys_sharing_an_adapter": others}
        trace = Trace(replace(trace.header, counts=counts), trace.requests)
    return _finished(trace, [adapter_of.get(key) for key in keys], names, source, noted)


def _finished(
    trace: Trace, adapters: Sequence[str | None], names: Sequence[str], source: str, noted: dict[str, Any]
) -> Trace:
    """The trace with one adapter per request. Sessions that have several are split, and counted."""
    first: dict[str, str | None] = {}
    split: set[str] = set()
    requests = []
    for request, adapter in zip(trace.requests, adapters, strict=True):
        session = request.session
        if session is not None and first.setdefault(session, adapter) != adapter:
            split.add(session)
            session = f"{session}/{adapter}"
        requests.append(_with_adapter(request, adapter, session))
    header, counts = trace.header, dict(trace.header.counts)
    if split:
        counts["sessions_split_by_adapter"] = len(split)
    header = replace(
        header,
        provenance=replace(header.provenance, adapter_source=source),
        adapters=dict.fromkeys(names),
        parameters={**header.parameters, **noted},
        counts=counts,
    )
    return Trace(header, tuple(requests))


def _with_adapter(request: Request, adapter: str | None, session: str | None) -> Request:
    """dataclasses.replace, at a third of its cost: it runs once per request of a long trace."""
    return Request(
        request.id,
        request.arrival_s,
        adapter,
        request.output_tokens,
        request.prompt,
        request.prompt_token_ids,
        request.output,
        request.output_token_ids,
        session,
        request.task,
        request.after,
        request.delay_s,
    )
