"""A log on a disk that is full now and then."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from libra.engine.record import RequestRecord
from libra.server.generation import Ended
from libra.server.request_log import RequestLog, session_of


class Disk:
    """A file that takes ``room`` more bytes."""

    def __init__(self, room: int) -> None:
        self.data = b""
        self.room = room

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = data[: self.room]
        self.data += taken
        self.room -= len(taken)
        return len(taken)


def ended(number: int) -> Ended:
    record = RequestRecord(number, None, None, 0.0, 2, number)
    choice = SimpleNamespace(num_tokens=number, finish_reason="length", tokens=[])
    return Ended(choice, (1, 2), record)  # type: ignore[arg-type]


@pytest.mark.parametrize("room", range(0, 320, 7))
def test_lines_are_whole_or_lost_when_the_disk_was_full(
    room: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(room)
    monkeypatch.setattr(Path, "open", lambda *_, **__: disk)
    log = RequestLog(Path("log.jsonl"), 16, None, False)  # type: ignore[arg-type]
    told = [log.write(ended(number), 0.0, None) for number in (1, 2, 3)]
    disk.room = 1 << 20
    told.append(log.write(ended(4), 0.0, None))
    lines = [json.loads(line)["output_tokens"] for line in disk.data.splitlines()]
    assert disk.data.endswith(b"\n")
    assert lines[-1] == 4
    assert lines == sorted(set(lines))
    assert len(lines) - told.count(True) in (0, 1), "one that had begun is ended later"
    assert len(caplog.records) == (0 if all(told) else 1)


def test_a_user_without_a_name_is_no_session() -> None:
    assert session_of({}, None) is None
    assert session_of({}, "ann") == session_of({"X-Session-ID": "ann"}, "bob") != session_of({}, "bob")
