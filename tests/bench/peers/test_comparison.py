"""What is made of two sides' hits, and the pages made of that."""

import csv
import gzip
import json
from pathlib import Path

import pytest
import typer

from bench.peers.comparison import Comparison
from bench.peers.files import conclude, read_summaries
from bench.peers.readme import readme_text
from libra.request import Request

RESULTS = Path(__file__).parents[3] / "results" / "peers"
TIMES = {f"sglang_{name}_us": 1.0 for name in ("match", "insert", "evict")} | {
    f"libra_{name}_us": 2.0 for name in ("admit", "insert", "evict", "release")
}


def comparison(ours: list[int]) -> Comparison:
    requests = [
        Request(id=number, arrival_s=0.0, adapter="lora-00", output_tokens=4, prompt_token_ids=(1,) * 1000)
        for number in range(2)
    ]
    setting = {"page_size": 16, "capacity_tokens": 4096}
    return Comparison("sglang", setting, requests, [0, 960], ours, None, {"sglang_evicted_beyond_need": 20, **TIMES})


def test_within_one_per_cent_agrees() -> None:
    assert comparison([0, 960]).agrees
    assert comparison([0, 951]).agrees
    assert not comparison([0, 940]).agrees
    assert comparison([16, 944]).summary()["requests_that_differ"] == 2


def test_rows_summary_origin_and_page_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conclude([comparison([0, 960])], "sglang_radix", tmp_path, {"sglang": "0.5.23"})
    assert json.loads(capsys.readouterr().out)["difference_percent"] == 0
    rows = list(
        csv.DictReader(gzip.decompress((tmp_path / "sglang_radix.rows.csv.gz").read_bytes()).decode().splitlines())
    )
    assert [row["libra_hit_tokens"] for row in rows] == ["0", "960"]
    assert json.loads((tmp_path / "sglang_radix.json").read_text())["peer"] == {"sglang": "0.5.23"}
    page = (tmp_path / "README.md").read_text()
    assert "| 16 | 4,096 | 2 | 2,000 | 960 | 960 | +0.00 % | 0 | 10 |" in page
    assert "## `vllm`" not in page


def test_a_policy_off_its_original_ends_with_code_1(tmp_path: Path) -> None:
    with pytest.raises(typer.Exit) as raised:
        conclude([comparison([0, 640])], "sglang_radix", tmp_path, {})
    assert raised.value.exit_code == 1
    assert "-33.33 %" in (tmp_path / "README.md").read_text()


@pytest.mark.skipif(not RESULTS.is_dir(), reason="no peers have been measured")
def test_the_committed_page_is_made_of_the_committed_rows() -> None:
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == readme_text(read_summaries(RESULTS))
