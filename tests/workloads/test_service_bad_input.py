"""What no service reader accepts, each with the file, the row and the column in the message."""

import json
from pathlib import Path
from typing import Any

import pytest

from libra.errors import LibraError
from tests.workloads.services import SAMPLES, sample
from workloads.formats import ReadOptions
from workloads.registry import FORMATS

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,API log\n"
MINUTES = "HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,http,1,2\n"
CALLS = "app,func,end_timestamp,duration\na,f,5.0,1.0\n"
WINDOW = "0,0.01,1.0,Gamma,0.8,0.04\n"
QWEN = {
    "chat_id": 1,
    "parent_chat_id": -1,
    "timestamp": 1.0,
    "input_length": 32,
    "output_length": 2,
    "hash_ids": [1, 2],
}
LOG = {"timestamp": 2.0, "adapter": "a", "prompt_tokens": 64, "output_tokens": 4}
CALL = {"timestamp": 10, "input": "hello", "output": "yes", "session_id": "s"}


def session(**changes: Any) -> str:
    request = {"t": 1.0, "model": "m", "in": 64, "out": 3, "hash_ids": [1], **changes}
    return json.dumps({"hash_id_scope": "local", "block_size": 64, "requests": [request]}) + "\n"


def rows(*values: dict[str, Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("azure-llm", AZURE + "2023-11-16 18:15:45,3,4\n", "row 3: 'TIMESTAMP' is 1700158545 after"),
        ("azure-llm", AZURE + "yesterday,3,4\n", "row 3: 'TIMESTAMP' is 'yesterday'; it must be a time"),
        ("azure-llm", AZURE + "2023-11-16 18:15:47,-3,4\n", "row 3: 'ContextTokens' is '-3'"),
        ("azure-llm", AZURE + "2023-11-16 18:15:47,3,nan\n", "row 3: 'GeneratedTokens' is 'nan'"),
        ("azure-llm", AZURE + "2023-11-16 18:15:47,99999999,4\n", "row 3: 'ContextTokens' is 99999999; a length is"),
        ("azure-llm", AZURE + "2023-11-16 18:15:47,3\n", "row 3: 'row' has 2 columns where the header has 3"),
        ("azure-llm", AZURE + "\n", "row 3: 'row' has 0 columns"),
        ("azure-llm", AZURE + "2023-11-16 18:15:47,3,4", "row 3: the file ends inside this row: it is cut short"),
        ("azure-llm", AZURE + '2023-11-16 18:15:47,"3,4\n', "row 3: is not CSV"),
        ("azure-llm", "TIMESTAMP,Context,Generated\n", "row 1: has no column 'ContextTokens'"),
        ("azure-llm", "", "row 1: has no column 'TIMESTAMP'"),
        ("azure-llm", AZURE.splitlines()[0] + "\n", "no request in this azure-llm source"),
        ("burstgpt", BURST + "4,ChatGPT,1,1,2,API log\n", "row 3: 'Timestamp' is 4 after 5"),
        ("burstgpt", BURST + "nan,ChatGPT,1,1,2,API log\n", "row 3: 'Timestamp' is 'nan'"),
        ("burstgpt", BURST + "6,,1,1,2,API log\n", "row 3: 'Model' is empty"),
        ("burstgpt", BURST + "6,ChatGPT,1.5,1,2,API log\n", "row 3: 'Request tokens' is '1.5'"),
        ("azure-functions", MINUTES + "o,a,g,http,1\n", "row 3: has 5 columns where the header has 6"),
        ("azure-functions", MINUTES + "o,a,g,http,1,-2\n", "row 3, column '2': '-2' is not a count"),
        ("azure-functions", CALLS + "a,f,inf,1.0\n", "row 3: 'end_timestamp' is 'inf'"),
        ("azure-functions", CALLS + "a,f,5.0,-1\n", "row 3: 'duration' is '-1'"),
        ("azure-functions", CALLS + "a,,5.0,1\n", "row 3: 'func' and 'app' must not be empty"),
        ("azure-functions", "a,b\n1,2\n", "row 1: has no column 'app'"),
        ("qwen-bailian", rows(QWEN, {**QWEN, "chat_id": 2, "timestamp": 0.5}), "row 2: 'timestamp' is 0.5 after 1"),
        ("qwen-bailian", rows(QWEN, QWEN), "row 2: 'chat_id' is 1, which an earlier row has"),
        ("qwen-bailian", rows({**QWEN, "hash_ids": [1]}), "row 1: 'hash_ids' has 1 blocks of 16 tokens for 32 tokens"),
        ("qwen-bailian", rows({**QWEN, "timestamp": float("nan")}), "row 1: 'timestamp' is nan"),
        ("qwen-bailian", rows({**QWEN, "input_length": -1}), "row 1: 'input_length' is -1"),
        ("qwen-bailian", '{"chat_id": 1}\n', "row 1: 'row' must be a JSON object with"),
        ("qwen-bailian", rows(QWEN)[:-9], "row 1: 'row' is not JSON"),
        ("qwen-bailian", "[" * 100_000, "row 1: 'row' is not JSON of a sane depth"),
        ("kv-cache-tester", session(t=-1.0), "request 1: 't' is -1.0; it must be finite and 0 or more"),
        ("kv-cache-tester", session(hash_ids=[]), "request 1: 'hash_ids' has 0 blocks of 64 tokens for 64 tokens"),
        ("kv-cache-tester", session(model=""), "request 1: 'model' must be a non-empty string"),
        ("kv-cache-tester", session()[:-30], "'row' is not JSON"),
        ("kv-cache-tester", '{"requests": {}}\n', "must be a JSON object with a list of 'requests'"),
        ("kv-cache-tester", '{"requests": [1], "block_size": 64}\n', "'requests' must hold JSON objects only"),
        ("lmcache-agent", rows({**CALL, "timestamp": -1}), "row 1: 'timestamp' is -1"),
        ("lmcache-agent", rows({**CALL, "input": ["hello"]}), "row 1: 'input' must be text"),
        (
            "lmcache-agent",
            rows({**CALL, "input": ""}),
            "no request in this lmcache-agent source (skipped without prompt",
        ),
        ("openai-log", rows({**LOG, "prompt": "secret"}), "row 1: 'row' has a field that is not of the log"),
        (
            "openai-log",
            rows({**LOG, "block_tokens": 32, "prefix_hashes": ["9"]}),
            "row 1: 'prefix_hashes' has 1 entries",
        ),
        ("openai-log", rows({**LOG, "prefix_hashes": [3]}), "row 1: 'prefix_hashes' must be a list of non-empty"),
        ("openai-log", rows({**LOG, "timestamp": float("inf")}), "row 1: 'timestamp' is inf"),
    ],
)
def test_faults_name_file_row_and_column(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / "bad.x"
    path.write_text(text)
    with pytest.raises(LibraError) as raised:
        FORMATS[name].read([path], ReadOptions())
    assert message in str(raised.value)
    assert "bad" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WINDOW + "600,0.01,1.0,Pareto,0.8,0.04\n", "row 2, column '4 (distribution)' is 'Pareto'"),
        (WINDOW + "600,-0.01,1.0,Gamma,0.8,0.04\n", "row 2, column '2 (rate)' is '-0.01'"),
        (WINDOW + "600,nan,1.0,Gamma,0.8,0.04\n", "row 2, column '2 (rate)' is 'nan'"),
        (WINDOW + "0,0.01,1.0,Gamma,0.8,0.04\n", "row 2, column '1 (start)' is 0, not 600 s after the row before"),
        (WINDOW + "600,0.01,1.0,Gamma,0,0.04\n", "row 2, column '5 (shape)' is 0"),
        (WINDOW + "600,0.01\n", "row 2, column '6' must be the last of 6 columns; the row has 2"),
        ("", "is empty"),
    ],
)
def test_servegen_windows(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "chunk-3-trace.csv").write_text(text)
    with pytest.raises(LibraError, match=r"chunk-3-trace.csv") as raised:
        FORMATS["servegen"].read([tmp_path], ReadOptions())
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"0": {"input_tokens": "{60: NaN}", "output_tokens": "{}"}}', "period 0: 'input_tokens' has the share nan"),
        ('{"0": {"input_tokens": "{60: 0.5", "output_tokens": "{}"}}', "'input_tokens' must be the text of a dict"),
        ('{"0": {"input_tokens": "{60: 0.5}"}}', "'output_tokens' must be the text of a dictionary"),
        ('{"0": {"input_tokens": "{99999999: 0.5}", "output_tokens": "{}"}}', "has '99999999' tokens"),
        ('{"x": {}}', "period x: 'x' must be a period's start in seconds"),
        ("[]", "must be a JSON object of periods"),
    ],
)
def test_servegen_lengths(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "chunk-3-trace.csv").write_text(WINDOW)
    (tmp_path / "chunk-3-dataset.json").write_text(text)
    with pytest.raises(LibraError, match=r"chunk-3-dataset.json") as raised:
        FORMATS["servegen"].read([tmp_path], ReadOptions())
    assert message in str(raised.value)


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "servegen"])
def test_other_encodings_are_refused(tmp_path: Path, name: str) -> None:
    trace_format, source = sample(name)
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes()[:-1] + b"\xff\xfe\n")
    with pytest.raises(LibraError, match=r"row \d+: is not UTF-8 text"):
        FORMATS[trace_format].read([path], ReadOptions())


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "servegen"])
@pytest.mark.parametrize("share", [0.55, 0.8, 0.98])
def test_cut_files_are_refused(tmp_path: Path, name: str, share: float) -> None:
    """Wherever a file is cut, unless it is at the end of a row, which leaves a shorter file that is whole."""
    trace_format, source = sample(name)
    content = source.read_bytes()
    cut = content[: int(len(content) * share)]
    if content[len(cut) - 1 : len(cut) + 1].endswith(b"\n"):
        cut = cut[:-3]
    path = tmp_path / source.name
    path.write_bytes(cut)
    with pytest.raises(LibraError, match=r"row|not JSON"):
        FORMATS[trace_format].read([path], ReadOptions())
