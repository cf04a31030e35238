"""A trace's columns and its tree of prefixes, against numbers worked by hand."""

from pathlib import Path

import numpy as np
import pytest

from tests.workloads.builders import row, write_rows
from workloads.columns import grouped, pairs, trace_columns
from workloads.prefixes import highest_before, matched_tokens, prefix_tree
from workloads.service import ServiceTime
from workloads.trace import read_trace

SERVICE = ServiceTime(first_token_s=1.0, per_token_s=0.25)


def test_one_entry_per_request(tmp_path: Path) -> None:
    rows = [
        row(0, adapter="b", session="x"),
        row(1, adapter="a", session=None),
        row(2, adapter="b", session="x", output_tokens=8),
    ]
    columns = trace_columns(read_trace(write_rows(tmp_path / "t.jsonl", *rows)).requests, service=SERVICE)
    assert columns.adapter_ids == ("b", "a")
    assert columns.adapter.tolist() == [0, 1, 0]
    assert columns.session.tolist() == [0, 1, 0]
    assert columns.prompt_tokens.tolist() == [72, 72, 72]
    assert columns.first_token_s.tolist() == [1.0, 2.0, 3.0]
    assert columns.end_s.tolist() == [2.0, 3.0, 5.0]
    assert columns.piece_tokens.tolist() == [64, 8, 4, 64, 8, 4, 64, 8, 8]
    assert columns.first.tolist() == [0, 3, 6, 9]
    # The shared prefix is one text; utterances and answers are texts of their own.
    assert len(set(columns.piece_text.tolist())) == 1 + 3 + 3


def test_explicit_tokens_are_cut_into_blocks_with_the_answer_behind_them(tmp_path: Path) -> None:
    explicit = {"prompt": ..., "output": ...}
    rows = [
        row(0, prompt_token_ids=list(range(40)), output_token_ids=[7, 8, 9, 10], **explicit),
        row(1, prompt_token_ids=list(range(40)), **explicit),
    ]
    columns = trace_columns(read_trace(write_rows(tmp_path / "t.jsonl", *rows)).requests, block_tokens=16)
    assert columns.piece_tokens.tolist() == [16, 16, 12, 16, 16, 8, 4]
    assert columns.prompt_tokens.tolist() == [40, 40]
    assert matched_tokens(prefix_tree(columns)).tolist() == [0, 32]


def test_a_request_that_waits_arrives_when_the_others_are_assumed_to_end(tmp_path: Path) -> None:
    rows = [
        row(0, arrival_s=0.0),
        row(1, arrival_s=0.5, after=[0], delay_s=0.25),
        row(2, arrival_s=1.0),
        row(3, arrival_s=1.0, after=[1, 2]),
    ]
    columns = trace_columns(read_trace(write_rows(tmp_path / "t.jsonl", *rows)).requests, service=SERVICE)
    # Answers take 2 s each: 0 ends at 2, 1 runs from 2.25 to 4.25, 2 from 1 to 3.
    assert columns.arrival_s.tolist() == [0.0, 1.0, 2.25, 4.25]


def test_shorter_cuts_of_a_known_text_match_and_longer_ones_match_in_part(tmp_path: Path) -> None:
    cuts = (64, 40, 100, 100)
    rows = [row(number, prompt=[["x", 0, cut], [f"t{number}", 0, 8]]) for number, cut in enumerate(cuts)]
    columns = trace_columns(read_trace(write_rows(tmp_path / "t.jsonl", *rows)).requests)
    assert matched_tokens(prefix_tree(columns)).tolist() == [0, 40, 64, 100]


def test_without_adapters_all_prompts_share_one_tree(tmp_path: Path) -> None:
    rows = [row(0, session="x"), row(1, adapter="b", session="y")]
    columns = trace_columns(read_trace(write_rows(tmp_path / "t.jsonl", *rows)).requests)
    assert matched_tokens(prefix_tree(columns)).tolist() == [0, 0]
    assert matched_tokens(prefix_tree(columns, by_adapter=False)).tolist() == [0, 64]


def test_groups() -> None:
    order, numbers = grouped(np.array([5, 3, 5, 9]))
    assert (order.tolist(), numbers.tolist()) == ([1, 0, 2, 3], [0, 1, 1, 2])
    assert pairs(np.array([1, 0, 1, 1]), np.array([2, 2, 2, 0])).tolist() == [2, 0, 2, 1]


@pytest.mark.parametrize("seed", range(5))
def test_highest_before_is_that_of_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    group, value = np.sort(rng.integers(0, 6, 40)), rng.integers(0, 9, 40)
    slow = [
        max((v for g, v in zip(group[:place], value[:place], strict=True) if g == group[place]), default=0)
        for place in range(len(group))
    ]
    assert highest_before(group, value).tolist() == slow
