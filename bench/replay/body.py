"""The ways an HTTP/1.1 message says where its body ends (RFC 9112, section 6)."""

from abc import ABC, abstractmethod
from functools import lru_cache

from bench.replay.faults import HttpFault

MAX_LINE_BYTES = 1 << 16


class Body(ABC):
    """Takes what the connection delivers and gives the body's bytes; ``done`` once the body has ended."""

    done = False
    # Whether the connection can carry another exchange after this body.
    reusable = True

    @abstractmethod
    def feed(self, data: bytes) -> bytes:
        """The body's bytes in ``data``. Raises HttpFault where the framing is broken."""

    def end_of_input(self) -> bool:
        """Whether the peer may close the connection here."""
        return self.done


class SizedBody(Body):
    """A body of a known number of bytes."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.done = size == 0

    def feed(self, data: bytes) -> bytes:
        if len(data) > self._left:
            raise HttpFault("more bytes than Content-Length says")
        self._left -= len(data)
        self.done = self._left == 0
        return data


class UntilClosedBody(Body):
    """A body that ends with the connection."""

    reusable = False

    def feed(self, data: bytes) -> bytes:
        return data

    def end_of_input(self) -> bool:
        self.done = True
        return True


class ChunkedBody(Body):
    """A body in chunks, each with its size in front; the last has size 0 and may be followed by trailers."""

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0  # bytes still to come of the current chunk, its closing CR LF included
        self._in_trailers = False

    def feed(self, data: bytes) -> bytes:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        elif not self._left and not self._in_trailers:
            only = _only_chunk(data)
            if only:
                return only
        pieces, position = [], 0
        while not self.done:
            if self._left:
                piece, position = self._chunk_piece(data, position)
                if piece:
                    pieces.append(piece)
                if self._left:
                    break
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                self._keep(data[position:])
                break
            line, position = data[position:line_end], line_end + 2
            if self._in_trailers:
                self.done = not line
            else:
                self._start_chunk(line)
        if self.done and position < len(data):
            raise HttpFault("bytes after the last chunk")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _chunk_piece(self, data: bytes, position: int) -> tuple[bytes, int]:
        """Bytes of the current chunk from ``position``, without its closing CR LF, and the position after them."""
        end = min(position + self._left, len(data))
        taken = end - position
        wanted = max(min(taken, self._left - 2), 0)
        closing = data[position + wanted : end]
        if closing and closing != b"\r\n"[2 - self._left + wanted :][: len(closing)]:
            raise HttpFault("a chunk is longer than its size says")
        self._left -= taken
        return data[position : position + wanted], end

    def _start_chunk(self, line: bytes) -> None:
        digits = line.partition(b";")[0].strip()
        try:
            size = int(digits, 16)
        except ValueError:
            size = -1
        if size < 0:
            raise HttpFault(f"chunk size {line[:20]!r}")
        if size:
            self._left = size + 2
        else:
            self._in_trailers = True

    def _keep(self, rest: bytes) -> None:
        if len(rest) > MAX_LINE_BYTES:
            raise HttpFault("a chunk header without an end")
        self._rest = rest


def _only_chunk(data: bytes) -> bytes:
    """The bytes of the one chunk that ``data`` is, which is how a token comes; empty when it is anything else."""
    line = _size_line(len(data))
    if line is None or not (data.startswith(line) and data.endswith(b"\r\n")):
        return b""
    return data[len(line) : -2]


@lru_cache(maxsize=4096)
def _size_line(num_bytes: int) -> bytes | None:
    """The first line, as most servers write it, of a chunk that takes ``num_bytes`` with its size and line ends; None
    where there is no such chunk (of 16 bytes takes 22, of 15 takes 20)."""
    for num_digits in range(1, 9):
        line = b"%x\r\n" % max(num_bytes - num_digits - 4, 0)
        if len(line) == num_digits + 2 and line != b"0\r\n":
            return line
    return None
