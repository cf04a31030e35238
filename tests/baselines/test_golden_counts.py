"""Hit and byte counts of every policy, to the last token. `--update-golden` writes them anew: explain the change."""

import difflib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.baselines.golden_run import CACHE_SIZES, as_text, golden_counts

GOLDEN = Path(__file__).parents[1] / "golden" / "cache_counts.json"


@pytest.fixture(scope="module")
def measured() -> str:
    return as_text(golden_counts())


def test_counts_are_what_they_were(measured: str, update_golden: bool) -> None:
    if update_golden:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(measured)
    changes = difflib.unified_diff(GOLDEN.read_text().splitlines(), measured.splitlines(), "golden", "now", lineterm="")
    assert "\n".join(changes) == ""


def test_another_process_counts_the_same(measured: str) -> None:
    size = str(CACHE_SIZES[0])
    command = [sys.executable, "-m", "tests.baselines.golden_run", size]
    root = Path(__file__).parents[2]
    other = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    assert json.loads(other.stdout) == {name: {size: policy[size]} for name, policy in json.loads(measured).items()}


def test_the_trace_tells_policies_and_sizes_apart(measured: str) -> None:
    """Golden counts that no mistake could change would prove nothing."""
    counts = json.loads(measured)
    # One memory under two names or schedulers; and two slots of five adapters are what vLLM's share comes to here.
    twins = {"wos": "lru", "caraserve-rank-aware": "caraserve", "sglang": "vllm-async"}
    smallest = {name: json.dumps(policy[str(CACHE_SIZES[0])]) for name, policy in counts.items() if name not in twins}
    assert len(set(smallest.values())) == len(smallest)
    for size in map(str, CACHE_SIZES[1:3]):
        assert len({json.dumps(policy[size]) for policy in counts.values()}) >= 0.7 * len(counts)
    assert counts["wos"] == counts["lru"]
    for policy in counts.values():
        assert all(of_size["finished"] == 120 for of_size in policy.values())
    reused = [counts["fastlibra"][str(size)]["hbm_hit_tokens"] for size in CACHE_SIZES]
    assert reused == sorted(reused)
    assert counts["slora"]["160"]["hbm_hit_tokens"] == 0
    assert counts["vllm-offload"]["40"]["host_hit_tokens"] > counts["vllm-async"]["40"]["host_hit_tokens"] == 0
    assert counts["vllm"]["40"]["swap_out_bytes"] == 0
    assert counts["fastlibra"]["40"]["evicted_blocks"] > counts["fastlibra"]["480"]["evicted_blocks"]
