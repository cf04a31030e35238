"""Taskmaster's formats: scenes of all four, and documents that are not of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from libra.errors import LibraError
from tests.workloads.texts import SLOW
from workloads.registry import FORMATS
from workloads.trace import Trace

SAID = [{"speaker": "user", "text": "hi"}, {"speaker": "assistant", "text": "hello"}]


def read(path: Path, content: Any) -> Trace:
    path.write_text(content if isinstance(content, str) else json.dumps(content) + "\n")
    return FORMATS["taskmaster"].read([path], SLOW)


@pytest.mark.parametrize(
    ("fields", "scene"),
    [
        ({"instruction_id": "restaurant-table-2"}, "restaurant-table"),
        ({"instruction_id": "movie-24e"}, "movie"),
        ({"instruction_id": "epl 3"}, "epl"),
        ({"instruction_id": "music"}, "music"),
        ({"instruction_id": "17"}, "17"),
        ({"vertical": "Coffee", "scenario": "Auto template 4", "instructions": None}, "Auto template 4 (Coffee)"),
    ],
)
def test_scenes(tmp_path: Path, fields: dict[str, Any], scene: str) -> None:
    trace = read(tmp_path / "data.json", {**fields, "utterances": SAID})
    assert list(trace.header.adapters) == [scene]
    assert trace.header.parameters["adapter_key"] == "scenes"


def test_several_files_and_folders(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"instruction_id": name, "utterances": SAID}]))
    (tmp_path / "README.md").write_text("no data")
    trace = FORMATS["taskmaster"].read([tmp_path], SLOW)
    assert set(trace.header.adapters) == {"a", "b"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"instruction_id": "a"}], "row 1: 'utterances' is missing"),
        (
            [{"instruction_id": "a", "utterances": SAID}, {"utterances": SAID}],
            "row 2: 'instruction_id' (or 'scenario')",
        ),
        ([{"instruction_id": "", "utterances": SAID}], "row 1: 'instruction_id' must be a non-empty string"),
        ([{"scenario": "a", "utterances": SAID}], "row 1: 'vertical' is missing"),
        ([{"instruction_id": "a", "utterances": {}}], "row 1: 'utterances' must be a list"),
        ([{"instruction_id": "a", "utterances": ["hi"]}], "row 1: 'utterances[0]' must be a JSON object"),
        ([{"instruction_id": "a", "utterances": [{"speaker": "user"}]}], "row 1: 'text' is missing"),
        (
            [{"instruction_id": "a", "utterances": [SAID[0], {"speaker": "bot", "text": "hi"}]}],
            "row 1: 'utterances[1].speaker' is 'bot'; it must be user or assistant",
        ),
        (["hi"], "row 1: 'row' must be a JSON object"),
        ('[{"instruction_id": "a", "uttera', "is not JSON"),
        ("[]", "no request"),
    ],
)
def test_bad_documents(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "data.json"
    with pytest.raises(LibraError) as raised:
        read(path, content)
    assert message in str(raised.value)
    assert "data" in str(raised.value)


def test_bad_encoding(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(b'[\n{"instruction_id": "caf\xe9"}]')
    with pytest.raises(LibraError, match="row 2: is not UTF-8 text"):
        FORMATS["taskmaster"].read([path], SLOW)
