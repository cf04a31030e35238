"""Tokens told apart without parsing them: most events of a stream differ from each other in the token's text alone.

Parsing is most of what a token costs the client, so only events that are in any way different are parsed.
"""

_KEYS = (b'"text":"', b'"text": "', b'"content":"', b'"content": "')
_ENDINGS = (b"\n\n", b"\r\n\r\n")
# What stands for itself in JSON text and ends nothing: printable ASCII but quote and backslash.
_PLAIN = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))


class TokenEvent:
    """The shape of one token's event: the bytes before its text and those after it, alone and in the stream."""

    def __init__(self) -> None:
        self._event: tuple[bytes, bytes] | None = None
        self._framed: tuple[bytes, bytes] | None = None
        self._between = b""

    def learn(self, event: bytes, text: str, piece: bytes) -> None:
        """Remembers the shape of ``event``, which stands for one token of ``text`` and for nothing else.

        ``piece`` is the part of the stream it came in. An event in which the text is not found in plain letters, once,
        is no example of anything; one that is not whole in its piece shows no more than its own shape.
        """
        key = next((key for key in _KEYS if event.count(key) == 1), b"")
        before, _, after = event.partition(key or b'"')
        told, _, after = after.partition(b'"')
        if not (key and told) or told != text.encode(errors="surrogatepass") or told.translate(None, _PLAIN):
            return
        before, after = before + key, b'"' + after
        self._event = (before, after)
        lead, found, rest = piece.partition(event)
        ending = next((ending for ending in _ENDINGS if rest.startswith(ending)), b"")
        if found and ending:
            self._framed = (lead[lead.rfind(b"\n") + 1 :] + before, after + ending)
            self._between = self._framed[1] + self._framed[0]

    def text(self, event: bytes) -> bytes | None:
        """The text of an event of the learnt shape; None for every other event."""
        text = _inside(event, self._event)
        return text if text and not text.translate(None, _PLAIN) else None

    def texts(self, piece: bytes) -> list[bytes] | None:
        """The texts in a piece of the stream that is nothing but whole events of the learnt shape; None for others."""
        text = _inside(piece, self._framed)
        if not text:
            return None
        if not text.translate(None, _PLAIN):
            return [text]
        texts = text.split(self._between)
        return texts if all(text and not text.translate(None, _PLAIN) for text in texts) else None


def _inside(data: bytes, shape: tuple[bytes, bytes] | None) -> bytes | None:
    """What stands between the two parts of ``shape``; None where they are not the start and the end of ``data``."""
    if shape is None:
        return None
    before, after = shape
    if len(data) < len(before) + len(after) or not (data.startswith(before) and data.endswith(after)):
        return None
    return data[len(before) : len(data) - len(after)]
