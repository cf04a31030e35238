"""Objectives after `--goodput`, quoted or not."""

from typing import Any

import pytest

from bench.cli import main
from bench.goodput_flag import join_objectives
from libra.errors import LibraError


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        (["--goodput", "ttft:500", "tpot:50", "--seed", "1"], ["--goodput", "ttft:500 tpot:50", "--seed", "1"]),
        (["--goodput", "ttft:500 tpot:50"], ["--goodput", "ttft:500 tpot:50"]),
        (["--goodput=ttft:500", "tpot:50", "e2el:9"], ["--goodput=ttft:500 tpot:50 e2el:9"]),
        (["--goodput", "--seed", "a:b"], ["--goodput", "--seed", "a:b"]),
        (["--policy", "f.py:name", "g:h"], ["--policy", "f.py:name", "g:h"]),
        ([], []),
    ],
)
def test_objectives_need_no_quotes(given: list[str], understood: list[str]) -> None:
    assert join_objectives(given) == understood


@pytest.mark.parametrize(
    ("command", "run"),
    [
        (("bench", "--workload", "chatbot"), "bench.run.run_bench"),
        (("replay", "--url", "x", "--workload", "chatbot"), "bench.replay.run.run_replay"),
    ],
)
@pytest.mark.parametrize("objectives", [("--goodput", "ttft:500", "tpot:50"), ("--goodput=ttft:500 tpot:50",)])
def test_commands_take_them_both_ways(
    command: tuple[str, ...], run: str, objectives: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def stop(settings: Any, *_: object, **__: object) -> None:
        given.append(settings.goodput)
        raise LibraError("that will do")

    monkeypatch.setattr(run, stop)
    with pytest.raises(SystemExit):
        main([*command, *objectives, "--seed", "1"])
    assert given == [("ttft:500", "tpot:50")]
