"""The flags of `libra serve`."""

import sys
from pathlib import Path

import pytest

from bench.cli import main
from bench.serve_cli import parse_adapters, repeat_flags
from libra.errors import LibraError


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        (["M", "--lora-modules", "a=1", "b=2", "--port", "0"], "M --lora-modules a=1 --lora-modules b=2 --port 0"),
        (["--lora", "a=1", "--lora", "b=2", "M"], "--lora a=1 --lora b=2 M"),
        (
            ["--lora-modules", "a=1", "b=2", "M", "--host", "x=y"],
            "--lora-modules a=1 --lora-modules b=2 M --host x=y",
        ),
        (["M", "--port", "0", "k=v"], "M --port 0 k=v"),
    ],
)
def test_one_flag_may_name_several_adapters(given: list[str], understood: str) -> None:
    assert " ".join(repeat_flags(given)) == understood


def test_adapters_are_name_and_path() -> None:
    assert parse_adapters(["a=x/y", "b=z=1"]) == {"a": Path("x/y"), "b": Path("z=1")}
    for values in (["a"], ["=x"], ["a="], ["a=x", "a=y"]):
        with pytest.raises(LibraError, match="--lora"):
            parse_adapters(values)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere"], "nowhere/tokenizer.json: no such file"),
        (["nowhere", "--device", "cpux"], "unknown device 'cpux': did you mean 'cpu'?"),
        (["nowhere", "--policy", "fastlibre"], "did you mean 'fastlibra'?"),
        (["nowhere", "--policy", "clairvoyant"], "'clairvoyant' must know the requests to come and cannot serve"),
        (["nowhere", "--lora-dir", "nowhere"], "--lora-dir nowhere: no such directory"),
        (["nowhere", "--request-log-text"], "needs --request-log"),
        (["nowhere", "--cache-salt", "users"], "did you mean 'user'?"),
        (["nowhere", "--port", "70000"], "--port 70000"),
        (["nowhere", "--hbm-cache-gib", "nan"], "--hbm-cache-gib nan"),
        (["nowhere", "--drain-timeout", "nan"], "--drain-timeout must be at least 0"),
        (["nowhere", "--api-key", ""], "--api-key (or LIBRA_API_KEY) is empty and would let everybody in"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["libra"])
    with pytest.raises(SystemExit) as left:
        main(["serve", *flags])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_key_in_the_environment_that_is_empty_is_no_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRA_API_KEY", "")
    with pytest.raises(SystemExit) as left:
        main(["serve", "nowhere"])
    assert left.value.code == 2
    assert "LIBRA_API_KEY) is empty" in capsys.readouterr().err


def test_flags_of_vllm_that_change_nothing_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "nowhere", "--enable-lora", "--max-loras", "4", "--max-cpu-loras", "16", "--max-lora-rank", "8"])
    *notes, _ = capsys.readouterr().err.splitlines()
    assert [note.split(":")[1] for note in notes] == [
        " --max-loras 4 changes nothing",
        " --max-cpu-loras 16 changes nothing",
    ]
