"""Text to tokens and back, by a Hugging Face ``tokenizer.json``."""

from pathlib import Path

from tokenizers import Tokenizer as FastTokenizer

from libra.errors import LibraError


class Tokenizer:
    """The tokenizer of a model directory. ``longest_token``: the most characters that one token stands for."""

    def __init__(self, directory: Path) -> None:
        """Raises LibraError when ``tokenizer.json`` is absent or cannot be read."""
        path = directory / "tokenizer.json"
        if not path.exists():
            raise LibraError(f"{path}: no such file; text needs a fast tokenizer, save one with save_pretrained()")
        try:
            self._tokenizer = FastTokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise LibraError(f"{path}: not a tokenizer ({error}); download it again") from error
        self.longest_token = max(map(len, self._tokenizer.get_vocab()), default=1)

    @property
    def vocab_size(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        # A batch of one: only batches let other threads run meanwhile, and a long text takes seconds.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return list(encoding.ids)

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens))
