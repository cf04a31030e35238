"""Server-sent events out of a byte stream (WHATWG HTML, section 9.2.6)."""

from bench.replay.faults import HttpFault

MAX_EVENT_BYTES = 1 << 24


class EventStream:
    """Cuts a stream, however it is split into pieces, into the data of its events.

    Comments and other fields are skipped, but the data of an event named ``error`` is kept apart, in ``error``. Lines
    end in LF or CR LF; a lone CR, which the standard allows too, does not end one. Bytes stay bytes: a character split
    between two pieces is whole again before anything decodes it.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._is_error = False
        self.error: bytes | None = None
        # Whether nothing of an event has been fed that is not whole yet.
        self.is_between_events = True

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of every event that ``piece`` completes. Raises HttpFault for an event without an end."""
        lines = (self._rest + piece if self._rest else piece).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_EVENT_BYTES:
            raise HttpFault(f"an event is longer than {MAX_EVENT_BYTES >> 20} MiB")
        events = []
        for line in lines:
            if line[-1:] == b"\r":
                line = line[:-1]
            if not line:
                if self._data and self._is_error:
                    self.error = self._take()
                elif self._data:
                    events.append(self._take())
                self._is_error = False
            elif line[:5] == b"data:":
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif line[:6] == b"event:":
                self._is_error = line[6:].strip() == b"error"
        self.is_between_events = not (self._rest or self._data or self._is_error)
        return events

    def close(self) -> list[bytes]:
        """What the end of the stream leaves: an event whose last line or blank line never came."""
        return self.feed(b"\n\n")

    def _take(self) -> bytes:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data.clear()
        return data
