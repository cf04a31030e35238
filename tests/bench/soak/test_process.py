"""A server that was started for a measurement: how it is seen, and that it does not stay behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.soak.process import ServedProcess, _family, processor_s
from tests.tiny_models import TinyModel

# Starts a server, tells the processes that belong to it, and would hold it for minutes.
HOLDER = """
import sys, time
from pathlib import Path
from bench.soak.process import ServedProcess, _family
with ServedProcess(Path(sys.argv[1])) as server:
    print(*_family(server._process.pid), flush=True)
    time.sleep(300)
"""


def is_running(process: int) -> bool:
    """Whether there is such a process and it has not ended; who has adopted it may never ask how."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_for_end(processes: list[int]) -> None:
    deadline_s = time.monotonic() + 15.0
    while any(map(is_running, processes)) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not [process for process in processes if is_running(process)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_ends_with_whoever_started_it(tiny_model: TinyModel, number: signal.Signals) -> None:
    command = [sys.executable, "-c", HOLDER, str(tiny_model.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        processes = [int(word) for word in holder.stdout.readline().split()]
        assert len(processes) >= 2, "one for HTTP, one for the engine"
        assert all(map(is_running, processes))
        holder.send_signal(number)
        assert holder.wait() == -number
    wait_for_end(processes)


def test_processor_time_is_told_apart_and_the_server_stops_when_asked(tiny_model: TinyModel) -> None:
    with ServedProcess(tiny_model.directory) as server:
        processes = _family(server._process.pid)
        before, whole = processor_s(server._process.pid), server.usage().processor_s
        assert set(before) == {"server", "engine"}
        assert min(before.values()) > 0.0
        assert sum(before.values()) <= whole + 1e-6 <= sum(processor_s(server._process.pid).values()) + 2e-6
        assert server.stop() == 0
    wait_for_end(processes)
