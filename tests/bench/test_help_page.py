"""What `--help` prints."""

import re

import pytest
import typer
from typer.models import CommandInfo, TyperInfo

from bench.cli import app, main


def _commands(group: typer.Typer, *names: str) -> list[tuple[str, ...]]:
    """The words that call each command below ``group``."""
    found = [(*names, _name(command)) for command in group.registered_commands]
    for below in group.registered_groups:
        assert below.typer_instance is not None
        found += _commands(below.typer_instance, *names, _name(below))
    return found


def _name(info: CommandInfo | TyperInfo) -> str:
    callback = getattr(info, "callback", None)
    return str(info.name or callback.__name__)


def _help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], columns: int
) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as left:
        main([*words, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", _commands(app), ids=" ".join)
def test_no_flag_is_cut_at_80_columns(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow, wide = (_help(monkeypatch, capsys, words, columns) for columns in (80, 200))
    assert max(map(len, narrow.splitlines())) <= 80
    assert max(map(len, wide.splitlines())) <= 120
    flags = re.findall(r"--[a-z-]+", wide)
    assert flags
    assert set(flags) == set(re.findall(r"--[a-z-]+", narrow))
    assert "\\[" not in narrow


def test_defaults_in_brackets_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(_help(monkeypatch, capsys, ("replay",), 200).split())
    assert "[default: from /v1/models]" in text
    assert "onoff:ON_S,OFF_S[,RATIO]" in text


def test_options_stand_under_their_headings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = _help(monkeypatch, capsys, ("bench",), 100).splitlines()
    place = {word: next(at for at, line in enumerate(lines) if word in line) for word in ("Memory", "--link-gbps")}
    headings = [line.split()[1] for line in lines if line.startswith("╭")]
    assert headings == ["Options", "Workload", "Engine", "Memory"]
    assert place["Memory"] < place["--link-gbps"]
