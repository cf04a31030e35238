"""Events that differ from an earlier one in nothing but the token's text, told apart without parsing them.

Nearly all of a stream's events are such, and parsing them is most of what a token costs the client.
"""

_KEYS = (b'"text":"', b'"text": "', b'"content":"', b'"content": "')


class TokenEvent:
    """The shape of one token's event: the bytes before its text and those after it."""

    def __init__(self) -> None:
        self._before = self._after = b""
        self._length = 0

    def learn(self, event: bytes, text: str) -> None:
        """Remembers the shape of an event that stands for one token of ``text`` and for nothing else.

        An event in which the text is not found in plain letters, once, is no example of anything.
        """
        for key in _KEYS:
            if event.count(key) == 1:
                before, _, rest = event.partition(key)
                told, _, after = rest.partition(b'"')
                if told and told == text.encode() and b"\\" not in told:
                    self._before, self._after = before + key, b'"' + after
                    self._length = len(self._before) + len(self._after)
                return

    def text_of(self, event: bytes) -> bytes | None:
        """The text of an event of the learnt shape, plain ASCII; None for every other event."""
        if len(event) <= self._length or not (
            self._length and event.startswith(self._before) and event.endswith(self._after)
        ):
            return None
        text = event[len(self._before) : len(event) - len(self._after)]
        # A quote or a backslash could mean that something else has begun.
        return text if text.isascii() and b'"' not in text and b"\\" not in text else None
