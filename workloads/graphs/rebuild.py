"""Call graphs from records of calls.

What published records do not keep to, after the maintainers' answers (alibaba/clusterdata issues 116, 121, 124, 157),
is mended where another record tells what is missing, left out otherwise, and counted either way.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from libra.errors import LibraError
from workloads.garbage import collection_paused
from workloads.graphs.calls import USER, Callee, CallGraph, Vertex, call_graph, reaches
from workloads.graphs.records import Record, read_records

# Both the caller and the callee record such a call, with the same rpcid, and their rt has opposite signs.
TWO_SIDED = frozenset({"rpc", "http", "userdefined"})


@dataclass(eq=False)
class _Call:
    """What the rows of one call say together."""

    rpcid: tuple[str, ...]
    caller: str
    callee: str
    interface: str
    kind: str
    records: list[float] = field(default_factory=list)
    made: list["_Call"] = field(default_factory=list)

    def takes(self, record: Record) -> bool:
        """Whether ``record`` may be of this call: it contradicts nothing that is known. Then fills what was not."""
        mine, theirs = (self.caller, self.callee, self.interface), (record.caller, record.callee, record.interface)
        if self.kind != record.kind or any(a != b for a, b in zip(mine, theirs, strict=True) if a and b):
            return False
        self.caller, self.callee, self.interface = (a or b for a, b in zip(mine, theirs, strict=True))
        self.records.append(record.rt_ms)
        return True

    @property
    def times(self) -> int:
        """How often it was made: a two-sided call made once has two records."""
        if self.kind not in TWO_SIDED:
            return len(self.records)
        positive, negative = sum(rt > 0 for rt in self.records), sum(rt < 0 for rt in self.records)
        return max(positive, negative, -(-len(self.records) // 2))

    @property
    def times_below(self) -> int:
        """How often it and all calls below it were made."""
        total, left = 0, [self]
        while left:
            call = left.pop()
            total += call.times
            left += call.made
        return total

    @property
    def vertex(self) -> Vertex:
        return Vertex(self.callee, self.interface)


def read_call_graphs(paths: Sequence[Path], max_bytes: int) -> tuple[list[CallGraph], Counter[str]]:
    """The call graphs of CSV files, compressed or not, and what was mended or left out, by reason.

    Rows of one trace may be anywhere in the files. Raises LibraError, naming file, row and column, for a file that is
    not of the schema, and where no call graph is left.
    """
    counts: Counter[str] = Counter()
    with collection_paused():
        graphs = list(build_call_graphs(read_records(paths, max_bytes, counts), counts))
    if not graphs:
        raise LibraError(f"{paths[0]}: no row here belongs to a call graph; are these call records?")
    return graphs, counts


def build_call_graphs(records: Iterable[Record], counts: Counter[str]) -> Iterator[CallGraph]:
    """The graphs of ``records``, trace by trace in order of first appearance. Adds to ``counts``."""
    traces: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        traces[record.trace].append(record)
    counts["traces"] += len(traces)
    for rows in traces.values():
        roots = _roots(_calls(rows, counts), counts)
        counts["traces_without_a_graph"] += not roots
        counts["extra_roots"] += max(0, len(roots) - 1)
        for root, made in roots:
            yield _graph(root, made, counts)


def _calls(rows: Iterable[Record], counts: Counter[str]) -> dict[tuple[str, ...], list[_Call]]:
    """The calls of one trace by rpcid, callers before callees."""
    calls: defaultdict[tuple[str, ...], list[_Call]] = defaultdict(list)
    for row in rows:
        rpcid = tuple(row.rpcid.split("."))
        if not any(call.takes(row) for call in calls[rpcid]):
            calls[rpcid].append(_Call(rpcid, row.caller, row.callee, row.interface, row.kind, [row.rt_ms]))
    for same in calls.values():
        counts["shared_rpcids"] += len(same) > 1
        counts["rows_of_the_other_side"] += sum(len(call.records) - call.times for call in same)
    return dict(sorted(calls.items(), key=lambda item: (len(item[0]), item[0])))


def _roots(calls: dict[tuple[str, ...], list[_Call]], counts: Counter[str]) -> list[tuple[Vertex, list[_Call]]]:
    """Where graphs begin, with the calls made there. Hangs every other call below the one it belongs to."""
    entering: list[_Call] = []
    orphans: list[_Call] = []
    top = min(len(rpcid) for rpcid in calls)
    for call in (call for same in calls.values() for call in same):
        parent = _parent(call, calls, counts)
        if parent is not None:
            parent.made.append(call)
        else:
            (orphans if len(call.rpcid) > top else entering).append(call)
    counts["calls_without_caller"] += sum(call.times_below for call in orphans)
    return _entries(entering, counts)


def _entries(entering: Iterable[_Call], counts: Counter[str]) -> list[tuple[Vertex, list[_Call]]]:
    """Entering calls whose caller is a service are that service's; where the caller is the user or unknown, each of
    them is a root of its own."""
    roots: list[tuple[Vertex, list[_Call]]] = []
    of_service: dict[str, list[_Call]] = {}
    for call in entering:
        if call.caller and call.caller != USER:
            if call.caller not in of_service:
                of_service[call.caller] = []
                roots.append((Vertex(call.caller), of_service[call.caller]))
            of_service[call.caller].append(call)
        elif call.callee:
            roots.append((call.vertex, call.made))
        else:
            counts["calls_without_callee"] += call.times_below
    return roots


def _parent(call: _Call, calls: dict[tuple[str, ...], list[_Call]], counts: Counter[str]) -> _Call | None:
    """The call that ``call`` was made in: the nearest one up its rpcid whose callee is its caller.

    A callee nobody recorded is the caller of the calls below. An unknown caller is the nearest callee, if known.
    """
    prefixes = (call.rpcid[:length] for length in range(len(call.rpcid) - 1, 0, -1))
    for above in (calls[prefix] for prefix in prefixes if prefix in calls):
        if not call.caller:
            known = next((other for other in above if other.callee), None)
            counts["callers_filled_in"] += known is not None
            return known
        for other in above:
            if other.callee == call.caller:
                return other
        blank = next((other for other in above if not other.callee), None)
        if blank is not None:
            blank.callee = call.caller
            counts["callees_filled_in"] += 1
            return blank
    return None


def _graph(root: Vertex, made: list[_Call], counts: Counter[str]) -> CallGraph:
    """The weighted graph of ``made``, breadth first. A call that would close a cycle, as when services call each other
    or themselves, is left out; what was called below it stays."""
    calls: defaultdict[Vertex, Counter[Callee]] = defaultdict(Counter)
    known = {root}
    level = [(root, call) for call in made]
    while level:
        below: list[tuple[Vertex, _Call]] = []
        for caller, call in level:
            callee = call.vertex
            if not call.callee:
                counts["calls_without_callee"] += call.times_below
                continue
            if callee in known and reaches(calls, callee, caller):
                counts["calls_that_close_a_cycle"] += call.times
            else:
                calls[caller][Callee(callee, call.kind)] += call.times
                known.add(callee)
            below += [(callee, other) for other in call.made]
        level = below
    return call_graph(root, calls)
