"""The progress bar: there for a terminal, silent otherwise."""

import io

import pytest
from rich.console import Console

from bench.progress import run_progress


def console(is_terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=100, _environ={})


def printed(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


@pytest.mark.parametrize(("is_terminal", "disable_tqdm"), [(False, False), (True, True)])
def test_nothing_is_shown_without_a_terminal_or_when_disabled(is_terminal: bool, disable_tqdm: bool) -> None:
    target = console(is_terminal)
    with (
        run_progress(2, disable_tqdm=disable_tqdm, console=target) as progress,
        progress.run("vllm", 0, 10) as on_progress,
    ):
        on_progress(3.0, 5)
    assert printed(target) == ""


def test_bar_names_the_run_and_counts_over_all_of_them() -> None:
    target = console(True)
    with run_progress(2, console=target) as progress:
        with progress.run("fastlibra", 3, 10) as on_progress:
            on_progress(60.0, 5)
        with progress.run("vllm", 3, 10) as on_progress:
            on_progress(1234.0, 4)
    text = printed(target)
    assert "fastlibra · seed 3" in text
    assert "vllm · seed 3" in text
    assert "10/20" in text, "the first run counts as done when the second starts"


def test_bar_shows_the_engine_clock() -> None:
    target = console(True)
    with run_progress(1, console=target) as progress, progress.run("lru", 0, 10) as on_progress:
        on_progress(1234.0, 4)
    text = printed(target)
    assert "at 1,234 s" in text
    assert "4/10" in text


def test_bar_goes_away_when_the_run_is_interrupted() -> None:
    target = console(True)
    with pytest.raises(KeyboardInterrupt), run_progress(1, console=target) as progress, progress.run("lru", 0, 10):
        raise KeyboardInterrupt
    assert printed(target).endswith(("\x1b[2K", "\x1b[?25h", "\x1b[1A\x1b[2K"))
