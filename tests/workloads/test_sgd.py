"""Schema-Guided Dialogue: services, schema files, and documents that are not dialogs."""

import json
from pathlib import Path
from typing import Any

import pytest

from libra.errors import LibraError
from tests.workloads.texts import SLOW
from workloads.registry import FORMATS

TURNS = [{"speaker": "USER", "utterance": "hi"}, {"speaker": "SYSTEM", "utterance": "hello"}]


def test_a_split_with_its_schema(tmp_path: Path) -> None:
    rows = [{"services": ["B_1", "A_2", "B_1"], "turns": TURNS}, {"services": ["A_2"], "turns": TURNS}]
    (tmp_path / "dialogues_001.json").write_text(json.dumps(rows))
    (tmp_path / "schema.json").write_text('[{"service_name": "A_2"}]')
    trace = FORMATS["sgd"].read([tmp_path], SLOW)
    assert set(trace.header.adapters) == {"A_2+B_1", "A_2"}
    assert trace.header.counts == {"skipped_schema_files": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"turns": TURNS}, "row 1: 'services' is missing"),
        ({"services": [], "turns": TURNS}, "row 1: 'services' must be a non-empty list of names"),
        ({"services": [3], "turns": TURNS}, "row 1: 'services' must be a non-empty list of names"),
        ({"services": ["A"], "turns": "hi"}, "row 1: 'turns' must be a list"),
        ({"services": ["A"], "turns": [7]}, "row 1: 'turns[0]' must be a JSON object"),
        ({"services": ["A"], "turns": [{"speaker": "USER", "utterance": 7}]}, "row 1: 'utterance' must be a string"),
        (
            {"services": ["A"], "turns": [{"speaker": "user", "utterance": "hi"}]},
            "row 1: 'turns[0].speaker' is 'user'; it must be USER or SYSTEM",
        ),
    ],
)
def test_bad_documents(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = tmp_path / "dialogues_001.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(LibraError) as raised:
        FORMATS["sgd"].read([path], SLOW)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)
