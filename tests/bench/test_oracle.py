"""vllm-oracle: the best static share of all, under one name."""

import csv
import json
from pathlib import Path

import pytest

from baselines.oracle import SHARES, VLLM_ORACLE
from bench.cli import main
from bench.oracle import find_choice
from bench.run import run_bench
from bench.settings import BenchSettings
from libra.errors import LibraError

SMALL = {"workload": "chatbot", "num_loras": 6, "duration_s": 5.0, "hbm_cache_gib": 1.0}


def test_the_candidates_differ_in_their_share_alone() -> None:
    settings = [policy.settings() for policy in VLLM_ORACLE.candidates()]
    assert [one["adapter_share"] for one in settings] == list(SHARES)
    assert [round(100 * share) for share in SHARES] == list(range(5, 51, 5))
    differing = {field for field in settings[0] if len({str(one[field]) for one in settings}) > 1}
    assert differing == {"name", "adapter_share"}


def test_the_lowest_ttft_is_kept_and_the_rest_is_told_apart() -> None:
    outcome = run_bench(BenchSettings(**SMALL, policies=("vllm", "vllm-oracle"), repeats=2))  # type: ignore[arg-type]
    figures = {summary.policy: summary.mean("mean_ttft_ms") for summary in outcome.summaries()}
    assert list(figures) == ["vllm", "vllm-oracle"] == [policy.name for policy in outcome.policies]
    tried = {summary.policy: summary.mean("mean_ttft_ms") or 0.0 for summary in outcome.candidates}
    # A slot of 27 blocks needs more than 0.05 of 256: that share is no candidate.
    assert set(tried) == {f"vllm at {share:.2f}" for share in SHARES[2:]}
    assert figures["vllm-oracle"] == min(tried.values())
    assert tried["vllm at 0.20"] == figures["vllm"]
    chosen = {result.extra["chosen"] for result in outcome.results if result.policy == "vllm-oracle"}
    assert chosen == {min(tried, key=lambda name: tried[name])}


def test_when_no_share_works_it_says_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LibraError, match=r"'vllm at 0\.05'.* a share of"):
        run_bench(BenchSettings(**SMALL | {"hbm_cache_gib": 0.15}, policies=("vllm-oracle",)))  # type: ignore[arg-type]


def test_an_unknown_name_is_told_of_oracles_too() -> None:
    with pytest.raises(LibraError, match="did you mean 'vllm-oracle'"):
        find_choice("vllm-orcle")
    with pytest.raises(LibraError, match=r"policy file no\.py does not exist"):
        find_choice("no.py:name")


def test_the_command_writes_what_it_tried(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["bench", "--workload", "chatbot", "--num-loras", "6", "--duration", "5", "--hbm-cache-gib", "1"]
    with pytest.raises(SystemExit):
        main([*arguments, "--policy", "vllm-oracle", "--disable-tqdm", "--out", str(tmp_path / "run")])
    captured = capsys.readouterr()
    assert "note: vllm-oracle is vllm at 0." in captured.err
    assert set(json.loads(captured.out.splitlines()[-1])["policies"]) == {"vllm-oracle"}
    with (tmp_path / "run" / "candidates.csv").open() as file:
        assert [row["policy"] for row in csv.DictReader(file)] == [f"vllm at {share:.2f}" for share in SHARES[2:]]
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert meta["runs"][0]["chosen"].startswith("vllm at 0.")
    with pytest.raises(SystemExit):
        main(["policies", "vllm-oracle"])
    assert "the best of: 0.05, 0.1" in capsys.readouterr().out
