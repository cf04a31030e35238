"""Tokens are a pure function of (segment, position, vocabulary), and labels of (tokens, adapter)."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from libra.request import Request, Segment
from libra.tokens import adapter_seed, extend_block_hashes, prompt_tokens, recorded_output, segment_tokens


@given(st.text(max_size=8), st.integers(0, 500), st.integers(0, 200), st.integers(0, 200), st.integers(2, 200_000))
def test_every_slice_of_a_segment_agrees_with_the_whole(
    name: str, start: int, skip: int, length: int, vocab: int
) -> None:
    whole = segment_tokens(name, start, skip + length, vocab)
    part = segment_tokens(name, start + skip, length, vocab)
    assert part.tolist() == whole[skip:].tolist()
    assert (whole < vocab).all()


def test_segments_are_read_only_and_differ_by_name() -> None:
    tokens = segment_tokens("a", 0, 50, 32000)
    assert not tokens.flags.writeable
    assert tokens.tolist() != segment_tokens("b", 0, 50, 32000).tolist()


def test_tokens_use_the_whole_vocabulary_evenly() -> None:
    counts = np.bincount(segment_tokens("x", 0, 64_000, 64), minlength=64)
    assert counts.min() > 850
    assert counts.max() < 1150


def test_two_processes_make_the_same_tokens_and_labels() -> None:
    code = (
        "from libra.tokens import *; t = segment_tokens('s12.t0', 3, 64, 32000); h = [];"
        "extend_block_hashes(h, t, 16, 4, adapter_seed('a07')); print(t.tolist(), h)"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    tokens = segment_tokens("s12.t0", 3, 64, 32000)
    labels: list[int] = []
    extend_block_hashes(labels, tokens, 16, 4, adapter_seed("a07"))
    assert outputs == {f"{tokens.tolist()} {labels}\n"}


def test_prompt_and_answer_come_from_segments_or_from_ids() -> None:
    segments = Request(0, 0.0, "a", 5, (Segment("x", 0, 3), Segment("y", 2, 4)), output="z")
    expected = [*segment_tokens("x", 0, 3, 99), *segment_tokens("y", 2, 4, 99)]
    assert prompt_tokens(segments, 99).tolist() == expected
    answer = recorded_output(segments, 99)
    assert answer is not None
    assert answer.tolist() == segment_tokens("z", 0, 5, 99).tolist()
    explicit = Request(0, 0.0, "a", 2, prompt_token_ids=(7, 8), output_token_ids=(9, 1))
    assert prompt_tokens(explicit, 99).tolist() == [7, 8]
    assert recorded_output(explicit, 99).tolist() == [9, 1]  # type: ignore[union-attr]
    assert recorded_output(Request(0, 0.0, "a", 2, prompt_token_ids=(7,)), 99) is None


def labels_of(tokens: list[int], adapter: str | None, num_blocks: int) -> list[int]:
    labels: list[int] = []
    extend_block_hashes(labels, np.array(tokens, dtype=np.uint32), 4, num_blocks, adapter_seed(adapter))
    return labels


def test_a_label_stands_for_the_whole_prefix_and_the_adapter() -> None:
    tokens = list(range(16))
    labels = labels_of(tokens, "a", 4)
    assert len(set(labels)) == 4
    assert labels_of([*tokens[:12], 99, 13, 14, 15], "a", 4)[:3] == labels[:3]
    changed_early = labels_of([99, *tokens[1:]], "a", 4)
    assert not set(changed_early) & set(labels)
    assert not set(labels_of(tokens, "b", 4)) & set(labels)
    assert not set(labels_of(tokens, None, 4)) & set(labels)


def test_an_adapter_called_base_is_not_the_base_model() -> None:
    assert adapter_seed("base") != adapter_seed(None)


def test_labels_can_be_extended_step_by_step() -> None:
    tokens = np.arange(40, dtype=np.uint32)
    at_once: list[int] = []
    extend_block_hashes(at_once, tokens, 4, 10, 1)
    by_and_by: list[int] = []
    for count in (1, 1, 4, 10):
        extend_block_hashes(by_and_by, tokens, 4, count, 1)
    assert by_and_by == at_once
