"""`libra serve` started from here, which it does not outlive, and what the system says of its processes."""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from libra.errors import LibraError

_LINES_KEPT = 40


@dataclass(frozen=True)
class Usage:
    """What a server's processes, HTTP and engine, hold and have used together. ``processor_s`` counts all threads."""

    rss_mib: float
    open_files: int
    num_threads: int
    processor_s: float


class ServedProcess:
    """A server on a free port, from entering the block until ``stop``; killed when the block ends without that, and
    told to stop when this process is gone before.

    ``url`` is its address, ``said`` the last lines it wrote.
    """

    def __init__(self, model: Path, arguments: Sequence[str] = ()) -> None:
        program = [sys.executable, "-m", "bench.soak.bound_server"]
        self._command = [*program, "serve", str(model), "--port", "0", *arguments]
        self.url = ""
        self.said: deque[str] = deque(maxlen=_LINES_KEPT)

    def __enter__(self) -> Self:
        """Raises LibraError when the server does not come up. Ctrl-C does not reach it: who started it stops it."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said.append(line.rstrip())
            address = next((word for word in line.split() if word.startswith("http://")), None)
            if address is not None:
                self.url = address
                break
        else:
            raise LibraError(f"libra serve did not start: {' / '.join(self.said) or 'it said nothing'}")
        # A pipe that nobody reads would stop the server once it is full.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self, timeout_s: float = 60.0) -> int | None:
        """Asks the server to drain and returns its exit status, None when it did not stop in time."""
        self._process.terminate()
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join()
        return status

    def usage(self) -> Usage:
        """From Linux's /proc. Raises LibraError when a process is gone, and on other systems."""
        return _sum(_usage(process) for process in _family(self._process.pid))

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said.append(line.rstrip())


def processor_s(process: int) -> dict[str, float]:
    """The processor time of a server's process and of those it has started. Raises as ``ServedProcess.usage`` does."""
    server, *others = (_usage(one) for one in _family(process))
    return {"server": server.processor_s, "engine": _sum(others).processor_s}


def _sum(usages: Iterable[Usage]) -> Usage:
    each = list(usages)
    return Usage(
        rss_mib=sum(usage.rss_mib for usage in each),
        open_files=sum(usage.open_files for usage in each),
        num_threads=sum(usage.num_threads for usage in each),
        processor_s=sum(usage.processor_s for usage in each),
    )


def _family(process: int) -> list[int]:
    """A process and all that come from it."""
    tasks = Path(f"/proc/{process}/task")
    try:
        children = [child for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    except OSError as error:
        raise LibraError(f"{tasks}: {error.strerror}; the server has died, or this is not Linux") from error
    return [process, *(one for child in children for one in _family(int(child)))]


def _usage(process: int) -> Usage:
    directory = Path(f"/proc/{process}")
    try:
        stat = (directory / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        open_files = len(os.listdir(directory / "fd"))  # noqa: PTH208 - names are enough
    except OSError as error:
        raise LibraError(f"{directory}: {error.strerror}; the server has died, or this is not Linux") from error
    # Fields 14, 15, 20 and 24 of proc(5), which counts from 1; the first two are cut off above.
    ticks, threads, pages = int(stat[11]) + int(stat[12]), int(stat[17]), int(stat[21])
    return Usage(
        rss_mib=pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20),
        open_files=open_files,
        num_threads=threads,
        processor_s=ticks / os.sysconf("SC_CLK_TCK"),
    )
