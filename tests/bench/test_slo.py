"""Objectives as `--goodput` takes them."""

import pytest

from bench.slo import Objectives, parse_objectives
from libra.errors import LibraError


@pytest.mark.parametrize("texts", [["ttft:500 tpot:50"], ["ttft:500", "tpot:50"], ["ttft:500,tpot:50"]])
def test_all_spellings_read_the_same(texts: list[str]) -> None:
    assert parse_objectives(texts) == Objectives(ttft=500, tpot=50)


def test_no_objectives_are_falsy() -> None:
    assert not parse_objectives([])
    assert parse_objectives(["e2el:1"])


def test_objectives_print_as_they_are_written() -> None:
    assert str(Objectives(ttft=500, e2el=2500.5)) == "ttft:500 e2el:2500.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tttf:500", "did you mean 'ttft'"),
        ("ttft", "NAME:MILLISECONDS"),
        ("ttft:fast", "positive number"),
        ("ttft:-1", "positive number"),
        ("ttft:0", "positive number"),
        ("ttft:nan", "positive number"),
        ("ttft:inf", "positive number"),
        ("ttft:1 ttft:2", "given twice"),
    ],
)
def test_bad_objectives_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(LibraError, match=message) as error:
        parse_objectives([text])
    assert "\n" not in str(error.value)
