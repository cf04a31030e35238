"""The policies named after vLLM and SGLang, on traces served one request at a time."""

import pytest

from baselines.sglang import SGLANG
from baselines.vllm import VLLM
from bench.peers.libra_side import run_policy
from bench.peers.sglang_radix import with_tokens
from bench.peers.vllm_prefix import sequential_trace
from libra.request import Request
from tests.bench.peers.block_pool import BlockPool

BLOCK = 32


def trace(seed: int, num_requests: int = 60, num_open: int = 6) -> list[Request]:
    return with_tokens(sequential_trace(num_requests, 4, num_open, seed))


@pytest.mark.parametrize("usable", [63, 127])
@pytest.mark.parametrize("seed", [1, 2])
def test_vllm_hits_what_vllms_block_pool_hits(usable: int, seed: int) -> None:
    requests = trace(seed, num_open=usable // 8)
    pool = BlockPool(usable, BLOCK)
    expected = [pool.serve(request) for request in requests]
    run = run_policy(VLLM, requests, 4, BLOCK, usable, 2)
    assert run.hit_tokens == expected
    assert 0 < sum(expected) < sum(len(request.prompt_token_ids or ()) for request in requests)


def test_sglang_hits_all_whole_pages_of_a_history_that_fits() -> None:
    requests = trace(seed=3)
    run = run_policy(SGLANG, requests, 4, 16, 4096, 4)
    seen: dict[str | None, int] = {}
    for request, hit in zip(requests, run.hit_tokens, strict=True):
        prompt = len(request.prompt_token_ids or ())
        if request.session in seen:
            assert hit == min(seen[request.session], prompt - 1) // 16 * 16
        seen[request.session] = prompt + request.output_tokens - 1


def test_a_run_tells_what_its_cache_calls_took() -> None:
    run = run_policy(SGLANG, trace(seed=4, num_requests=30), 4, 16, 128, 4)
    assert set(run.seconds) == {"admit", "insert", "evict", "release"}
    assert all(seconds > 0 for seconds in run.seconds.values())
    assert run.preemptions == 0
