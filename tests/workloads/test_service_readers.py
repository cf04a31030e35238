"""What the service readers make of their sources, beyond the committed conversions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libra.errors import LibraError
from tests.workloads.builders import write_function_counts
from tests.workloads.services import FOLDER
from workloads.azure_llm import epoch_seconds
from workloads.formats import AdapterMapping, ReadOptions
from workloads.prefixes import infinite_cache_hits
from workloads.registry import FORMATS
from workloads.trace import Trace


def read(name: str, *paths: Path, **options: Any) -> Trace:
    return FORMATS[name].read(list(paths), ReadOptions(**options))


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_azure(path: Path, *prompts: int) -> Path:
    rows = [f"2024-05-10 00:{number // 60:02d}:{number % 60:02d}.5+00:00,{p},9\n" for number, p in enumerate(prompts)]
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(rows))
    return path


def test_times_with_and_without_an_offset_agree() -> None:
    assert epoch_seconds("t", "2024-05-10 02:00:00.25+02:00") == epoch_seconds("t", "2024-05-10T00:00:00.250000")


def test_several_files_go_on_in_time(tmp_path: Path) -> None:
    early, late = FOLDER / "azure-llm.csv", write_azure(tmp_path / "late.csv", 5)
    assert len(read("azure-llm", early, late).requests) == 4
    with pytest.raises(LibraError, match=r"azure-llm.csv, row 2: 'TIMESTAMP' is \S+ after"):
        read("azure-llm", late, early)


def test_a_context_cap_is_flagged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    written = rng.lognormal(6.5, 0.8, 600).astype(int) + 1
    capped = np.minimum(written, rng.integers(1400, 1420, 600))
    assert "context cap" in " ".join(read("azure-llm", write_azure(tmp_path / "cap.csv", *capped)).header.warnings)
    assert "context cap" not in " ".join(read("azure-llm", write_azure(tmp_path / "a.csv", *written)).header.warnings)


def test_a_part_of_the_source(tmp_path: Path) -> None:
    path = write_azure(tmp_path / "a.csv", *range(1, 101))
    trace = read("azure-llm", path, start_s=20.0, span_s=30.0)
    assert [request.num_prompt_tokens for request in trace.requests] == list(range(21, 51))
    assert trace.header.duration_s == 30
    assert trace.header.counts == {"outside_window": 70}


def test_a_part_keeps_the_keys_of_its_requests() -> None:
    trace = read("burstgpt", FOLDER / "burstgpt.csv", start_s=40.0)
    assert [request.adapter for request in trace.requests] == ["ChatGPT", "GPT-4"]


def test_minute_counts_are_kept_exactly(tmp_path: Path) -> None:
    path = write_function_counts(tmp_path / "f.csv", [[7, 0, 30], [0, 0, 0], [1, 2, 3]])
    trace = read("azure-functions", path, burstiness=0.3)
    cells = [(request.adapter, int(request.arrival_s // 60)) for request in trace.requests]
    assert {cell: cells.count(cell) for cell in cells} == {
        ("f0", 0): 7,
        ("f0", 2): 30,
        ("f2", 0): 1,
        ("f2", 1): 2,
        ("f2", 2): 3,
    }
    assert trace.header.duration_s == 180
    assert trace.header.parameters["burstiness_in_minute"] == 0.3


def test_the_papers_method_keeps_the_top_functions(tmp_path: Path) -> None:
    path = write_function_counts(tmp_path / "f.csv", [[7, 0, 30], [5, 5, 5], [1, 2, 3]])
    trace = read("azure-functions", path, adapters=AdapterMapping(2, other_keys="drop"))
    assert list(trace.header.adapters) == ["f0", "f1"]
    assert trace.header.counts == {"skipped_of_other_keys": 6}


def test_a_part_of_the_minutes(tmp_path: Path) -> None:
    path = write_function_counts(tmp_path / "f.csv", [[1, 100, 1000, 1]])
    trace = read("azure-functions", path, start_s=90.0, span_s=60.0)
    assert 400 < len(trace.requests) < 700
    assert trace.header.duration_s == 60
    with pytest.raises(LibraError, match=r"f.csv holds 4 minutes"):
        read("azure-functions", path, start_s=200.0, span_s=60.0)


def test_too_many_invocations_are_refused_before_they_are_made(tmp_path: Path) -> None:
    path = write_function_counts(tmp_path / "f.csv", [[10**9]])
    with pytest.raises(LibraError, match="1,000,000,000 requests would be made"):
        read("azure-functions", path)


def test_minute_counts_traps_reach_the_header(tmp_path: Path) -> None:
    path = write_function_counts(tmp_path / "f.csv", [[14, 28, 42, 14, 28, 42]])
    assert "divisible by 14" in " ".join(read("azure-functions", path).header.warnings)


def test_the_years_do_not_mix() -> None:
    with pytest.raises(LibraError, match="convert the rest apart"):
        read("azure-functions", FOLDER / "azure-functions-2019.csv", FOLDER / "azure-functions-2021.csv")


def test_prefixes_of_hashed_blocks_are_hits() -> None:
    for name, hits in (("qwen-bailian", 32 + 16), ("kv-cache-tester", 128), ("lmcache-agent", 16), ("openai-log", 32)):
        path = next(FOLDER.glob(f"{name}.*"))
        trace = read(name, path, adapters=AdapterMapping(1, source="drawn"))
        assert infinite_cache_hits(trace.requests, 16).hit_tokens == hits, name


def test_blocks_of_two_sessions_never_compare(tmp_path: Path) -> None:
    content = (FOLDER / "kv-cache-tester.json").read_text()
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(content)
    trace = read("kv-cache-tester", tmp_path, adapters=AdapterMapping(1, source="drawn"))
    assert infinite_cache_hits(trace.requests, 16).hit_tokens == 2 * 128
    assert len({request.session for request in trace.requests}) == 4


def test_sessions_overlap_as_stated_and_keep_their_gaps(tmp_path: Path) -> None:
    request = {"type": "n", "model": "m", "in": 64, "out": 3, "hash_ids": [1]}
    document = {"hash_id_scope": "local", "block_size": 64, "requests": [{**request, "t": t} for t in (0.0, 5.0)]}
    for number in range(300):
        (tmp_path / f"{number:03d}.json").write_text(json.dumps(document))
    trace = read("kv-cache-tester", tmp_path)
    by_session: dict[str | None, list[float]] = {}
    for entry in trace.requests:
        by_session.setdefault(entry.session, []).append(entry.arrival_s)
    assert [last - first for first, last in by_session.values()] == pytest.approx([5.0] * 300, abs=2e-6)
    # 300 sessions of 5 s in the time of which 10 are live on average.
    assert trace.header.duration_s == pytest.approx(300 * 5 / trace.header.parameters["live_sessions"], rel=0.15)
    assert list(by_session) != sorted(by_session, key=str)


def test_long_prompts_are_flagged(tmp_path: Path) -> None:
    request = {"t": 0.0, "type": "n", "model": "m", "in": 64 * 1000, "out": 3, "hash_ids": list(range(1000))}
    document = {"hash_id_scope": "local", "block_size": 64, "requests": [request]}
    path = lines(tmp_path / "long.json", document)
    assert "recorded prompts have up to 64,000 tokens" in read("kv-cache-tester", path).header.warnings[0]


def test_texts_with_a_common_beginning_share_blocks(tmp_path: Path) -> None:
    text = "x" * 640
    call = {"output": "y" * 8, "session_id": "s"}
    path = lines(
        tmp_path / "c.jsonl",
        {**call, "timestamp": 0, "input": text},
        {**call, "timestamp": 10**6, "input": text + " and more"},
        {**call, "timestamp": 2 * 10**6, "input": "y" + text},
    )
    trace = read("lmcache-agent", path)
    assert [request.num_prompt_tokens for request in trace.requests] == [160, 163, 161]
    assert infinite_cache_hits(trace.requests, 16).hit_tokens == 160
    assert trace.header.provenance.length_source == "mapped"


def test_log_blocks_are_of_one_size(tmp_path: Path) -> None:
    entry = {"timestamp": 1.0, "adapter": "a", "prompt_tokens": 32, "output_tokens": 4}
    rows = [{**entry, "block_tokens": 32, "prefix_hashes": ["a"]}, {**entry, "block_tokens": 16, "prefix_hashes": []}]
    with pytest.raises(LibraError, match="row 2: 'block_tokens' is 16 where earlier rows have 32"):
        read("openai-log", lines(tmp_path / "log.jsonl", *rows))


def test_a_log_without_hashes_has_generated_prefixes(tmp_path: Path) -> None:
    entry = {"timestamp": 1.0, "adapter": None, "prompt_tokens": 32, "output_tokens": 4}
    trace = read("openai-log", lines(tmp_path / "log.jsonl", entry, entry))
    assert trace.header.provenance.prefix_source == "generated"
    assert trace.header.adapters == {}
    assert [request.adapter for request in trace.requests] == [None, None]
