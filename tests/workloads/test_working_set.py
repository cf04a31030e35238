"""Working set and infinite-cache hits, against numbers worked by hand and against the block hashes of the engine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libra.request import Request
from libra.spec import MODELS, AdapterSpec
from libra.tokens import adapter_seed, extend_block_hashes, prompt_tokens, recorded_output
from tests.workloads.builders import row, write_rows
from workloads.demand import Demand
from workloads.prefixes import infinite_cache_hits
from workloads.registry import WORKLOADS
from workloads.service import ServiceTime
from workloads.trace import Trace, read_trace
from workloads.working_set import mean_live_tokens, working_set

SERVICE = ServiceTime(first_token_s=1.0, per_token_s=0.25)  # two seconds for an answer of four tokens


def trace_of(tmp_path: Path, *rows: dict[str, Any]) -> Trace:
    return read_trace(write_rows(tmp_path / "t.jsonl", *rows))


def test_one_session_of_two_turns(tmp_path: Path) -> None:
    history = [["a.sys", 0, 64], ["s0.t0", 0, 8], ["s0.o0", 0, 4]]
    trace = trace_of(tmp_path, row(0, arrival_s=1.0), row(1, arrival_s=5.0, prompt=[*history, ["s0.t1", 0, 20]]))
    # 76 tokens from 1 to 5, then 100 from 5 to 7, over 10 s.
    assert mean_live_tokens(trace, SERVICE) == pytest.approx((76 * 4 + 100 * 2) / 10)


def test_a_prefix_shared_by_live_sessions_counts_once_per_adapter(tmp_path: Path) -> None:
    def prompt(name: str) -> list[list[Any]]:
        return [["sys", 0, 100], [name, 0, 10]]

    trace = trace_of(
        tmp_path,
        row(0, arrival_s=0.0, session="x", prompt=prompt("x.t0"), output="x.o0"),
        row(1, arrival_s=1.0, session="y", prompt=prompt("y.t0"), output="y.o0"),
        row(2, arrival_s=1.0, session="z", adapter="b", prompt=prompt("z.t0"), output="z.o0"),
        row(3, arrival_s=6.0, session="w", prompt=prompt("w.t0"), output="w.o0"),
    )
    # Adapter a holds sys over [0, 3) and [6, 8), b over [1, 3); four sessions hold 14 tokens for 2 s each.
    assert mean_live_tokens(trace, SERVICE) == pytest.approx((100 * (5 + 2) + 4 * 14 * 2) / 10)


def test_the_longest_holder_of_a_shared_prefix_counts(tmp_path: Path) -> None:
    def prompt(name: str) -> list[list[Any]]:
        return [["sys", 0, 100], [name, 0, 10]]

    trace = trace_of(
        tmp_path,
        row(0, arrival_s=0.0, session="x", prompt=prompt("x.t0"), output="x.o0", output_tokens=20),
        row(1, arrival_s=1.0, session="y", prompt=prompt("y.t0"), output="y.o0"),
    )
    # x holds sys and its own 30 tokens over [0, 6), y its own 14 over [1, 3).
    assert mean_live_tokens(trace, SERVICE) == pytest.approx((130 * 6 + 14 * 2) / 10)


def test_a_session_is_live_no_longer_than_the_trace(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, row(0, arrival_s=9.0))
    assert mean_live_tokens(trace, SERVICE) == pytest.approx(76 * 1 / 10)


def test_explicit_tokens_share_whole_blocks(tmp_path: Path) -> None:
    explicit = {"prompt": ..., "output": ..., "output_tokens": 4}
    trace = trace_of(
        tmp_path,
        row(0, arrival_s=0.0, prompt_token_ids=[1] * 40, **explicit),
        row(1, arrival_s=1.0, prompt_token_ids=[1] * 64, session="y", **explicit),
    )
    # A block of 32 over [0, 3), the first one's 8 and answer over [0, 2), the other's second block and answer to 3.
    assert mean_live_tokens(trace, SERVICE, block_tokens=32) == pytest.approx((32 * 3 + 12 * 2 + 36 * 2) / 10)


def test_blocks_and_bytes(tmp_path: Path) -> None:
    model = MODELS["llama3-8b"]
    trace = trace_of(tmp_path, row(0, prompt=[["x", 0, 1000]], output_tokens=24))
    found = working_set(trace, model, [AdapterSpec("a", 32), AdapterSpec("b", 64)])
    # Live for 0.5 + 24 * 0.03 s of 10: 1,024 tokens * 0.122 = 124.9, so 4 blocks of 32; ranks take 14 and 27.
    assert (found.kv_blocks, found.adapter_blocks, found.blocks) == (4, 41, 45)
    assert found.gib == pytest.approx(45 * 4 / 1024)


def hits_by_block_hash(requests: tuple[Request, ...], block_tokens: int) -> int:
    """The slow way: the engine's own chained hashes over real tokens."""
    seen: set[int] = set()
    hit_tokens = 0
    for request in requests:
        prompt = prompt_tokens(request, 50_000)
        answer = recorded_output(request, 50_000)
        whole = prompt if answer is None else np.concatenate([prompt, answer])
        hashes: list[int] = []
        seed = adapter_seed(request.adapter)
        extend_block_hashes(hashes, whole, block_tokens, len(whole) // block_tokens, seed)
        usable = (len(prompt) - 1) // block_tokens
        matched = next((number for number, label in enumerate(hashes[:usable]) if label not in seen), usable)
        hit_tokens += matched * block_tokens
        seen.update(hashes)
    return hit_tokens


@pytest.mark.parametrize("name", list(WORKLOADS))
@pytest.mark.parametrize("block_tokens", [16, 32])
def test_prefix_hits_equal_those_of_real_block_hashes(name: str, block_tokens: int) -> None:
    trace = WORKLOADS[name].generate(Demand(num_adapters=5, duration_s=90, seed=4))
    found = infinite_cache_hits(trace.requests, block_tokens)
    assert found.hit_tokens == hits_by_block_hash(trace.requests, block_tokens)
    assert found.prompt_tokens == sum(request.num_prompt_tokens for request in trace.requests)
    assert 0 < found.rate < 1


def test_explicit_answers_are_found_in_later_prompts(tmp_path: Path) -> None:
    tokens = list(range(200))
    explicit = {"prompt": ..., "output": ...}
    trace = trace_of(
        tmp_path,
        row(0, prompt_token_ids=tokens[:50], output_token_ids=tokens[50:100], output_tokens=50, **explicit),
        row(1, prompt_token_ids=tokens[:120], output_token_ids=tokens[120:124], **explicit),
        row(2, prompt_token_ids=tokens[:64], output_token_ids=[5, 5, 5, 5], **explicit),
    )
    found = infinite_cache_hits(trace.requests, 32).hit_tokens
    # Three blocks of the first prompt and answer, then one of 64, whose last token must be computed.
    assert found == hits_by_block_hash(trace.requests, 32) == 96 + 32


def test_prefix_hits_of_explicit_tokens_and_of_other_adapters(tmp_path: Path) -> None:
    tokens = list(range(100))
    explicit = {"prompt": ..., "output": ...}
    trace = trace_of(
        tmp_path,
        row(0, prompt_token_ids=tokens, **explicit),
        row(1, prompt_token_ids=[*tokens[:70], 7, 7, 7], **explicit),
        row(2, prompt_token_ids=tokens, adapter="b", session="s1", **explicit),
    )
    # The second shares 70 tokens: two blocks of 32. Another adapter shares none.
    assert infinite_cache_hits(trace.requests, 32).hit_tokens == 64


def test_the_last_prompt_token_is_never_a_hit(tmp_path: Path) -> None:
    prompt = [["x", 0, 64]]
    trace = trace_of(tmp_path, row(0, prompt=prompt), row(1, prompt=prompt))
    assert infinite_cache_hits(trace.requests, 32).hit_tokens == 32
