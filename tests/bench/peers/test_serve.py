"""The page of the servers side by side, and the judgement on load generators."""

import csv
import json
import math
from pathlib import Path

import pytest

from bench.peers.agreement import LIBRA, Shape, chain, server_figures, summarise
from bench.peers.serve import LOADS
from bench.peers.serve_readme import serve_readme
from libra.errors import LibraError
from libra.tokens import prompt_tokens
from workloads.trace import read_trace, write_trace

RESULTS = Path(__file__).parents[3] / "results" / "serve"
META = {
    "command": "python -m bench.peers.serve",
    "dtype": "bfloat16",
    "loads": {"base": {"replay": "--workload chatbot"}},
    "servers": {"libra": "0.1.0", "vllm": "0.32.0"},
    "machine": {"cpu": "a CPU", "cores": 2},
}


def row(server: str, seed: int, ttft_ms: float, valid: bool = True) -> dict[str, object]:
    figures = {"mean_ttft_ms": ttft_ms, "p95_ttft_ms": None, "mean_tpot_ms": 10.0, "mean_e2el_ms": 500.0}
    verdict = {"valid": valid, "reasons": "" if valid else "a late sender"}
    return (
        {"load": "base", "server": server, "seed": seed, "completed": 60.0, "output_throughput": 99.0}
        | figures
        | verdict
    )


def test_the_page_has_means_over_seeds_and_names_invalid_runs() -> None:
    rows = [row("libra", 0, 90), row("libra", 1, 110), row("libra", 2, 100)]
    rows += [row("vllm", 0, 80), row("vllm", 1, 80, valid=False), row("vllm", 2, 80)]
    page = serve_readme(rows, META)
    half = 4.30265 * math.sqrt(100 / 3)
    assert f"| mean TTFT, ms | 100 ±{half:.0f} | 80.0 " in page
    assert "| p95 TTFT, ms | – | – |" in page
    assert "| requests answered | 180 | 180 |" in page
    assert "vllm, seed 1: a late sender" in page
    assert "Means over 3 seeds with 95 % Student t intervals." in page


def test_two_seeds_are_too_few_for_intervals() -> None:
    page = serve_readme([row("libra", 0, 90), row("libra", 1, 110), row("vllm", 0, 80), row("vllm", 1, 81)], META)
    assert "Means over 2 seeds, too few for intervals." in page
    assert "| mean TTFT, ms | 100 | 80.5 |" in page
    assert "±" not in page


@pytest.mark.skipif(not (RESULTS / "summary.csv").is_file(), reason="the servers have not been measured")
def test_the_committed_page_is_made_of_the_committed_rows() -> None:
    with (RESULTS / "summary.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    meta = json.loads((RESULTS / "meta.json").read_text(encoding="utf-8"))
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == serve_readme(rows, meta)


def test_a_load_without_adapters_goes_to_the_base_model() -> None:
    without, adapters = LOADS
    assert without.arguments(3)[-2:] == ["--base-share", "1"]
    assert "--base-share" not in adapters.arguments(3)
    assert adapters.arguments(3)[adapters.arguments(3).index("--seed") + 1] == "3"


def test_clients_agree_within_3_ms_and_2_per_cent_of_what_the_server_did() -> None:
    def result(client: str, ttft_ms: float, tpot_ms: float, slower: float = 0.0) -> dict[str, object]:
        plain = {"client": client, "mean_ttft_ms": ttft_ms + 50 * slower, "mean_tpot_ms": tpot_ms * (1 + slower)}
        return plain | {"server_ttft_ms": 90.0 + 50 * slower, "server_tpot_ms": 10.0 * (1 + slower)}

    table = summarise(
        [
            result(LIBRA, 100.0, 10.0),
            result(LIBRA, 102.0, 10.0),
            result("near", 103.9, 10.19),
            result("late", 104.1, 10.0),
            result("slow", 101.0, 10.21),
            result("in a slow minute", 101.0, 10.0, slower=0.5),
        ]
    )
    assert {entry["client"]: entry["agrees"] for entry in table} == {
        LIBRA: True,
        "near": True,
        "late": False,
        "slow": False,
        "in a slow minute": True,
    }
    assert table[-1]["plain_ttft_off_ms"] == pytest.approx(25.0)
    assert table[-1]["plain_tpot_off_percent"] == pytest.approx(50.0)


def test_the_server_s_account_is_of_one_client_alone() -> None:
    names = (
        "vllm:time_to_first_token_seconds",
        "vllm:request_time_per_output_token_seconds",
        "vllm:request_prompt_tokens",
    )
    before = {f"{name}_{part}": 5.0 for name in names[1:] for part in ("sum", "count")}
    after = {f"{name}_{part}": value for name in names for part, value in (("sum", 6.0), ("count", 9.0))}
    assert server_figures({}, after, 9)["server_ttft_ms"] == pytest.approx(1e3 * 6 / 9)
    with pytest.raises(LibraError, match="the server counts 4 requests"):
        server_figures(before | {f"{names[0]}_count": 5.0}, after, 3)


def test_a_chain_is_a_trace_of_equal_requests_one_after_the_other(tmp_path: Path) -> None:
    trace = chain(Shape(3, 16, 4, "lora-00"), seed=5)
    write_trace(tmp_path / "trace.jsonl", trace)
    assert read_trace(tmp_path / "trace.jsonl").requests == trace.requests
    assert [request.after for request in trace.requests] == [(), (0,), (1,)]
    prompts = {tuple(prompt_tokens(request, 1000).tolist()) for request in trace.requests}
    assert {len(prompt) for prompt in prompts} == {16}
    assert len(prompts) == 3
