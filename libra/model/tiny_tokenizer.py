"""A byte-level BPE tokenizer made by rule instead of training, so that it is the same everywhere."""

import json
from collections import deque
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from libra.errors import LibraError

END_OF_TEXT, END_OF_TEXT_ID = "<|endoftext|>", 0
# The space as byte-level BPE writes it, then letters by how often English uses them.
_LETTERS = "\u0120etaoinshrdlucmfwygpbvkxqjz"


def write_tokenizer(directory: Path, vocab_size: int, max_length: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json with exactly ``vocab_size`` tokens.

    Raises LibraError when the vocabulary is too small for all bytes, or larger than the rule can fill.
    """
    vocabulary, merges = _vocabulary(vocab_size)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "model_max_length": max_length,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _vocabulary(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The end-of-text token, all bytes, then letter sequences by length, each merged from its head and last letter."""
    tokens = [END_OF_TEXT, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    if size < len(tokens):
        raise LibraError(f"a vocabulary of {size} tokens cannot hold all bytes; use at least {len(tokens)}")
    merges: list[tuple[str, str]] = []
    heads = deque(_LETTERS)
    while len(tokens) < size:
        head = heads.popleft()
        # A space can only begin a piece of text.
        for letter in _LETTERS[1 : 1 + size - len(tokens)]:
            merges.append((head, letter))
            tokens.append(head + letter)
            heads.append(head + letter)
    return {token: index for index, token in enumerate(tokens)}, merges
