"""What a comparison says of its origin."""

import sys

import pytest

from bench.peers.files import command_line


def test_the_command_names_no_place_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--vllm", "/somewhere/bin/vllm", "--model=/there/model", "--repeats", "2", "--out", "/there/out"]
    monkeypatch.setattr(sys, "argv", ["serve.py", *arguments])
    assert command_line().endswith(" --vllm VLLM/bin/vllm --model DIR --repeats 2")


def test_a_command_without_options_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sglang_radix.py", "--out=elsewhere"])
    assert not command_line().endswith((" ", "elsewhere"))
