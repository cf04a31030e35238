"""The progress bar of long runs, on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

OnProgress = Callable[[float, int], None]

_REFRESH_S = 0.1


class RunProgress:
    """Counts requests over ``num_runs`` runs in one bar that names the current run. Without a bar it shows nothing.

    Runs are taken to be as long as the current one until they start, which gives the time left something to go by.
    """

    def __init__(self, num_runs: int, bar: Progress | None = None) -> None:
        self._runs_left = num_runs
        self._num_done = 0
        self._bar = bar

    @contextmanager
    def run(self, policy: str, seed: int, num_requests: int) -> Iterator[OnProgress]:
        """One run, done when the block ends. Yields what the engine tells (seconds on its clock, requests done)."""
        if self._bar is None:
            yield _ignore
        else:
            total = self._num_done + max(self._runs_left, 1) * num_requests
            yield self._show(self._bar, f"{policy} · seed {seed}", total)
        self._num_done += num_requests
        self._runs_left -= 1

    def _show(self, bar: Progress, name: str, total: int) -> OnProgress:
        task: TaskID = bar.task_ids[0]
        bar.update(task, completed=self._num_done, total=total, run=name, clock="", refresh=True)
        next_refresh_s = 0.0

        def on_progress(time_s: float, num_done: int) -> None:
            nonlocal next_refresh_s
            if time.monotonic() >= next_refresh_s:
                next_refresh_s = time.monotonic() + _REFRESH_S
                bar.update(task, completed=self._num_done + num_done, clock=f"at {time_s:,.0f} s")

        return on_progress


class TaskProgress:
    """Counts tasks of which nothing is known until they end."""

    def __init__(self, bar: Progress | None = None) -> None:
        self._bar = bar

    def tell(self, text: str) -> None:
        """Says what is going on now."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], run=text)

    def advance(self, text: str) -> None:
        """One task has ended."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=1, run=text)


def _ignore(time_s: float, num_done: int) -> None:
    """Nobody watches."""


@contextmanager
def task_progress(
    num_tasks: int, noun: str, *, done: int = 0, disable_tqdm: bool = False, console: Console | None = None
) -> Iterator[TaskProgress]:
    """Progress over ``num_tasks`` of ``noun``, of which ``done`` need no work, with the time left; where it is shown is
    as for ``run_progress``."""
    console = console or Console(stderr=True)
    if disable_tqdm or not console.is_terminal:
        yield TaskProgress()
        return
    columns = (
        TextColumn("[bold]{task.fields[run]}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn(noun),
        TextColumn("[dim]left"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        bar.add_task("", total=num_tasks, completed=done, run="preparing")
        yield TaskProgress(bar)


@contextmanager
def run_progress(num_runs: int, *, disable_tqdm: bool = False, console: Console | None = None) -> Iterator[RunProgress]:
    """Progress over ``num_runs`` runs (policies x seeds); the bar is gone when the block ends, however it ends.

    The bar is on ``console`` (stderr by default), and only if that is a terminal and ``disable_tqdm`` is off.
    """
    console = console or Console(stderr=True)
    if disable_tqdm or not console.is_terminal:
        yield RunProgress(num_runs)
        return
    columns = (
        TextColumn("[bold]{task.fields[run]}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("requests"),
        TextColumn("[dim]{task.fields[clock]}"),
        TextColumn("[dim]left"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        bar.add_task("", total=None, run="preparing", clock="")
        yield RunProgress(num_runs, bar)
