"""Call records of the published schema: what they say, what they fail to say, and what is no record."""

import gzip
from collections import Counter
from pathlib import Path

import pytest

from libra.errors import LibraError
from tests.workloads.graphs.rows import DEEP, WIDE, Row, both, row, traces, write_rows
from workloads.agent_calls import callers_first
from workloads.graphs.calls import CallGraph
from workloads.graphs.rebuild import read_call_graphs

GIB = 1 << 30
ENTRY = both("0", "USER", "A", "http")


def read(tmp_path: Path, *rows: Row) -> tuple[list[CallGraph], Counter[str]]:
    return read_call_graphs([write_rows(tmp_path / "calls.csv", rows)], GIB)


def calls_of(graph: CallGraph) -> dict[str, int]:
    """Edges as text, such as ``A/i>B/i rpc`` -> times."""
    names = [f"{vertex.service}/{vertex.interface}" for vertex in graph.vertices]
    return {f"{names[edge.caller]}>{names[edge.callee]} {edge.kind}": edge.times for edge in graph.edges}


def test_a_trace_is_a_graph_of_interfaces_with_repeated_calls(tmp_path: Path) -> None:
    graphs, counts = read(
        tmp_path,
        *ENTRY,
        *both("0.1", "A", "B"),
        *both("0.2", "A", "B"),
        *both("0.3", "A", "B", interface="other"),
        *both("0.4", "A", "C"),
        row("0.1.1", "B", "db", "db"),
        row("0.1.2", "B", "db", "DB"),
        row("0.4.1", "C", "db", "db"),
        row("0.4.2", "C", "D", "mq"),
    )
    assert [calls_of(graph) for graph in graphs] == [
        {"A/i>B/i rpc": 2, "A/i>B/other rpc": 1, "A/i>C/i rpc": 1, "B/i>db/ db": 2, "C/i>db/ db": 1, "C/i>D/ mq": 1}
    ]
    assert graphs[0].levels == [0, 1, 1, 1, 2, 2]
    assert {reason: count for reason, count in counts.items() if count} == {
        "rows": 14,
        "traces": 1,
        "mq_rows": 1,
        "rows_of_the_other_side": 5,
    }


def test_rows_of_one_trace_may_be_anywhere(tmp_path: Path) -> None:
    rows = [*ENTRY, *both("0.1", "A", "B"), *both("0.1.1", "B", "C")]
    others = [{**entry, "traceid": "t1"} for entry in rows]
    mixed = [entry for pair in zip(reversed(rows), others, strict=True) for entry in pair]
    graphs, _ = read(tmp_path, *mixed)
    assert graphs == [graphs[0], graphs[0]]
    assert calls_of(graphs[0]) == {"A/i>B/i rpc": 1, "B/i>C/i rpc": 1}


@pytest.mark.parametrize(
    ("rows", "calls", "reason"),
    [
        ([row("", "A", "B")], {}, "rows_without_trace_or_rpcid"),
        ([row("(?)", "A", "B")], {}, "rows_without_trace_or_rpcid"),
        ([row("0.1", "A", "B", traceid="")], {}, "rows_without_trace_or_rpcid"),
        # One rpcid for two calls, as threads that do not pass the context on produce.
        ([row("0.1", "A", "m", "mc"), row("0.1", "A", "n", "mc")], {"A/i>m/ mc": 1, "A/i>n/ mc": 1}, "shared_rpcids"),
        # Who called whom is told by the other side, by the rows below, or by the rpcid alone.
        ([row("0.1", "(?)", "B"), row("0.1", "A", "B", rt=-3)], {"A/i>B/i rpc": 1}, "rows_of_the_other_side"),
        ([row("0.1", "A", "(?)"), *both("0.1.1", "B", "C")], {"A/i>B/i rpc": 1, "B/i>C/i rpc": 1}, "callees_filled_in"),
        ([row("0.1", "", "B")], {"A/i>B/i rpc": 1}, "callers_filled_in"),
        # Nobody tells.
        ([row("0.1", "A", "nan"), row("0.2", "A", "B")], {"A/i>B/i rpc": 1}, "calls_without_callee"),
        ([row("0.2.1", "X", "Y"), row("0.2.1.1", "Y", "Z")], {}, "calls_without_caller"),
        # Services that call themselves or each other.
        ([row("0.1", "A", "A"), row("0.1.1", "A", "C")], {"A/i>C/i rpc": 1}, "calls_that_close_a_cycle"),
        (
            [row("0.1", "A", "B"), row("0.1.1", "B", "C"), row("0.1.1.1", "C", "B")],
            {"A/i>B/i rpc": 1, "B/i>C/i rpc": 1},
            "calls_that_close_a_cycle",
        ),
    ],
)
def test_what_rows_do_not_keep_to_is_mended_or_left_out_and_counted(
    tmp_path: Path, rows: list[Row], calls: dict[str, int], reason: str
) -> None:
    graphs, counts = read(tmp_path, *ENTRY, *rows)
    assert [calls_of(graph) for graph in graphs] == [calls]
    assert counts[reason] > 0
    clean = read(tmp_path, row("0", "USER", "A", "http"), row("0.1", "A", "B"))[1]
    assert clean[reason] == 0, "a trap that is not there is not reported"


def test_a_call_without_its_own_row_above_hangs_below_the_nearest_that_fits(tmp_path: Path) -> None:
    graphs, _ = read(tmp_path, *ENTRY, *both("0.7.1", "A", "B"))
    assert calls_of(graphs[0]) == {"A/i>B/i rpc": 1}


def test_several_entering_calls_of_one_service_are_one_graph_and_others_their_own(tmp_path: Path) -> None:
    rows = [*both("0.1", "S", "B"), *both("0.2", "S", "C"), *both("0.3", "(?)", "E"), *both("0.3.1", "E", "F")]
    graphs, counts = read(tmp_path, *rows)
    assert [graph.root.service for graph in graphs] == ["S", "E"]
    assert [calls_of(graph) for graph in graphs] == [{"S/>B/i rpc": 1, "S/>C/i rpc": 1}, {"E/i>F/i rpc": 1}]
    assert counts["extra_roots"] == 1


def test_a_trace_of_which_nothing_is_left_is_counted(tmp_path: Path) -> None:
    graphs, counts = read(tmp_path, *ENTRY, row("0", "USER", "(?)", traceid="t1"))
    assert len(graphs) == 1
    assert (counts["traces"], counts["traces_without_a_graph"], counts["calls_without_callee"]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rt": "fast"}, "row 3: 'rt' is 'fast'; it must be a finite number"),
        ({"timestamp": "nan"}, "row 3: 'timestamp' is 'nan'"),
        ({"timestamp": "-1"}, "row 3: 'timestamp' is '-1'"),
        ({"rpctype": ""}, "row 3: 'rpctype' is empty"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, change: Row, message: str) -> None:
    with pytest.raises(LibraError) as raised:
        read(tmp_path, ENTRY[0], {**ENTRY[1], **change})
    assert message in str(raised.value)
    assert "calls.csv" in str(raised.value)


def test_files_that_are_no_call_records_are_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "calls.csv", ENTRY)
    path.write_text(path.read_text().replace("traceid", "trace"))
    with pytest.raises(LibraError, match="has no column 'traceid'"):
        read_call_graphs([path], GIB)
    with pytest.raises(LibraError, match="no row here belongs to a call graph"):
        read(tmp_path, row("", "A", "B"))
    path = write_rows(tmp_path / "cut.csv", ENTRY)
    path.write_text(path.read_text()[:-3])
    with pytest.raises(LibraError, match="cut short"):
        read_call_graphs([path], GIB)


def test_compressed_records_read_the_same_up_to_a_limit(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "calls.csv", traces([WIDE], 5, seed=0))
    packed = tmp_path / "calls.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_call_graphs([packed], GIB) == read_call_graphs([path], GIB)
    with pytest.raises(LibraError, match="raise --max-input-gib"):
        read_call_graphs([packed], 100)


def test_graphs_of_many_traces_are_acyclic_and_reach_every_vertex(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "calls.csv", traces([WIDE, DEEP], 40, seed=1))
    graphs, counts = read_call_graphs([path], GIB)
    assert len(graphs) == 80
    assert all(len(callers_first(graph)) == len(graph.vertices) for graph in graphs)
    assert counts["rows"] == len(path.read_text().splitlines()) - 1
