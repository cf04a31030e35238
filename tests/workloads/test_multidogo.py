"""MultiDoGO's tables: domains, customers without agents, and bad rows."""

from pathlib import Path

import pytest

from libra.errors import LibraError
from tests.workloads.texts import SAMPLES, SLOW
from workloads.registry import FORMATS
from workloads.trace import Trace

BOTH_SIDES = "conversationId\tturnNumber\tutteranceId\tutterance\tauthorRole\n"
CUSTOMER = "conversationId\tturnNumber\tsentenceNumber\tutteranceId\tutterance\tslot-labels\tintent\n"


def read(path: Path, content: str) -> Trace:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return FORMATS["multidogo"].read([path], SLOW)


@pytest.mark.parametrize(
    ("place", "domain"),
    [
        ("unannotated/finance.tsv", "finance"),
        ("media/dev.tsv", "media"),
        ("media/test.tsv", "media"),
        ("media.tsv", "media"),
    ],
)
def test_the_domain_is_in_the_name(tmp_path: Path, place: str, domain: str) -> None:
    trace = read(tmp_path / place, BOTH_SIDES + "c\t0\tu\thi\tcustomer\nc\t1\tu\thello\tagent\n")
    assert list(trace.header.adapters) == [domain]
    assert trace.header.provenance.length_source == "mapped"


def test_a_number_left_out_is_the_agents_turn(tmp_path: Path) -> None:
    rows = "c\t0\t0\tu\tabcd\tO\ti\nc\t0\t1\tu\tefgh\tO\ti\nc\t1\t0\tu\tij\tO\ti\nc\t3\t0\tu\tk\tO\ti\n"
    trace = read(tmp_path / "media" / "train.tsv", CUSTOMER + rows)
    # Sentences of one turn and turns 0 and 1 are joined by line ends: 12 bytes; then one more turn.
    assert [request.prompt[-1].length for request in trace.requests] == [3, 1]
    assert trace.header.provenance.length_source == "drawn"


def test_the_rows_of_a_conversation_need_not_be_neighbours(tmp_path: Path) -> None:
    rows = "c\t0\tu\thi\tcustomer\nd\t0\tu\thi\tcustomer\nc\t1\tu\tyes\tagent\nd\t1\tu\tyes\tagent\n"
    assert len(read(tmp_path / "media.tsv", BOTH_SIDES + rows).requests) == 2


def test_quoted_fields_over_several_lines() -> None:
    trace = FORMATS["multidogo"].read([SAMPLES / "multidogo" / "airline"], SLOW)
    assert len(trace.requests) == 4
    assert trace.header.counts == {"skipped_empty_utterances": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("conversationId\tutterance\nc\thi\n", "row 1: has no column 'turnNumber'"),
        (BOTH_SIDES + "c\t0\tu\thi\n", "row 2: 'row' has 4 columns where the header has 5"),
        (BOTH_SIDES + "c\t0\tu\thi\tcustomer\n\nc\t1\tu\thi\tagent\n", "row 3: 'row' has 0 columns"),
        (BOTH_SIDES + "c\t0\tu\thi\trobot\n", "row 2: 'authorRole' is 'robot'; it must be customer or agent"),
        (BOTH_SIDES + "\t0\tu\thi\tagent\n", "row 2: 'conversationId' is empty"),
        (BOTH_SIDES + "c\tnan\tu\thi\tagent\n", "row 2: 'turnNumber' is 'nan'; it must be a finite number"),
        (BOTH_SIDES + "c\t4\tu\thi\tcustomer\nc\t3\tu\thi\tagent\n", "row 3: 'turnNumber' is 3 after 4"),
        (BOTH_SIDES + "c\t0\tu\thi\tcustomer\nc\t1\tu\tyes\tag", "row 3: the file ends inside this row"),
        (BOTH_SIDES + 'c\t0\tu\t"hi\tcustomer\n', "row 2: is not CSV"),
        ("", "row 1: has no column 'conversationId'"),
    ],
)
def test_bad_rows(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "media.tsv"
    with pytest.raises(LibraError) as raised:
        read(path, content)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)
