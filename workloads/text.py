"""Text as tokens: by a stated rule where no tokenizer is at hand, by a ``tokenizer.json`` where one is given."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from libra.errors import LibraError
from libra.tokens import Tokens


@dataclass(frozen=True)
class TextOptions:
    """How the text of a data set becomes requests.

    Without ``tokenizer`` (a ``tokenizer.json``) a text of b UTF-8 bytes has ceil(b / ``bytes_per_token``) tokens: 4 is
    near what English takes, and bytes keep their order in scripts that put no spaces between words. With it, requests
    carry the text's token ids. ``system_tokens`` is the length of an assumed prefix that all dialogs of one scene,
    model or language pair share. ``think_s`` is the mean time between an answer and the next utterance; None takes the
    format's. Raises LibraError for a value out of range.
    """

    tokenizer: Path | None = None
    bytes_per_token: float = 4.0
    system_tokens: int = 0
    think_s: float | None = None

    def __post_init__(self) -> None:
        if not (self.bytes_per_token > 0 and math.isfinite(self.bytes_per_token)):
            raise LibraError(f"--bytes-per-token is {self.bytes_per_token}; it must be positive and finite")
        if self.system_tokens < 0:
            raise LibraError(f"--system-tokens is {self.system_tokens}; it must be 0 or more")
        if self.think_s is not None and not (self.think_s > 0 and math.isfinite(self.think_s)):
            raise LibraError(f"--think-time is {self.think_s}; it must be positive and finite")


class Encoder(Protocol):
    """Turns texts into token counts, and into token ids where it can."""

    @property
    def vocab_size(self) -> int | None:
        """Ids are below this; None for an encoder that only counts."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What it is, for the trace's header."""

    def encode(self, texts: Sequence[str]) -> tuple[list[int], list[Tokens]]:
        """The number of tokens of each text, 1 or more, and the tokens themselves where ``vocab_size`` is not None."""


def make_encoder(options: TextOptions) -> Encoder:
    """The encoder that ``options`` ask for. Raises LibraError for a tokenizer that cannot be read."""
    if options.tokenizer is None:
        return ByteRule(options.bytes_per_token)
    return load_tokenizer(options.tokenizer)


@dataclass(frozen=True)
class ByteRule:
    """Counts tokens as UTF-8 bytes over a constant, rounded up."""

    bytes_per_token: float

    @property
    def vocab_size(self) -> None:
        return None

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {"bytes_per_token": self.bytes_per_token}

    def encode(self, texts: Sequence[str]) -> tuple[list[int], list[Tokens]]:
        return [math.ceil(len(text.encode()) / self.bytes_per_token) or 1 for text in texts], []


@dataclass(frozen=True)
class TokenizerFile:
    """The ids of a Hugging Face tokenizer, without special tokens, so that an utterance is the same in any place."""

    name: str
    sha256: str
    tokenizer: Any

    @property
    def vocab_size(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {"tokenizer": self.name, "tokenizer_sha256": self.sha256}

    def encode(self, texts: Sequence[str]) -> tuple[list[int], list[Tokens]]:
        encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ids = [np.array(entry.ids or [0], dtype=np.uint32) for entry in encoded]
        return [len(entry) for entry in ids], ids


def load_tokenizer(path: Path) -> TokenizerFile:
    """The tokenizer of a ``tokenizer.json``. Raises LibraError where it, or the library that reads it, is absent."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise LibraError("--tokenizer needs the package 'tokenizers': pip install 'libra-lora[engine]'") from None
    try:
        content = path.read_bytes()
        tokenizer = Tokenizer.from_str(content.decode())
    except OSError as error:
        raise LibraError(f"cannot read {path}: {error.strerror}; --tokenizer is a tokenizer.json") from None
    except Exception as error:  # noqa: BLE001  # the library raises nothing narrower
        raise LibraError(f"{path}: not a tokenizer.json ({error})") from None
    return TokenizerFile(path.name, hashlib.sha256(content).hexdigest(), tokenizer)
