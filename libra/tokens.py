"""Tokens of named segments, and the chained hashes that label KV blocks."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from libra.request import Request

Tokens = npt.NDArray[np.uint32]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_SHIFT1, _SHIFT2, _SHIFT3 = np.uint64(30), np.uint64(27), np.uint64(31)


def segment_tokens(segment_id: str, start: int, length: int, vocab_size: int) -> Tokens:
    """Tokens ``start .. start+length`` of a segment: a pure function of (id, position, vocabulary).

    The generator is SplitMix64 (Steele et al., OOPSLA 2014) in counter mode, so any slice of a segment can be made
    without the rest and equal prefixes are equal by construction.
    """
    return _cached_segment(segment_id, start, length, vocab_size)


@lru_cache(maxsize=32768)
def _cached_segment(segment_id: str, start: int, length: int, vocab_size: int) -> Tokens:
    z = np.arange(start + 1, start + length + 1, dtype=np.uint64)
    z *= _GOLDEN
    z += np.uint64(xxh3_64_intdigest(segment_id.encode()))
    z ^= z >> _SHIFT1
    z *= _MIX1
    z ^= z >> _SHIFT2
    z *= _MIX2
    z ^= z >> _SHIFT3
    tokens = (z % np.uint64(vocab_size)).astype(np.uint32)
    tokens.setflags(write=False)
    return tokens


def prompt_tokens(request: Request, vocab_size: int) -> Tokens:
    """The request's prompt as token ids, shape [num_prompt_tokens]."""
    if request.prompt_token_ids is not None:
        return np.array(request.prompt_token_ids, dtype=np.uint32)
    parts = [segment_tokens(s.id, s.start, s.length, vocab_size) for s in request.prompt]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint32)


def recorded_output(request: Request, vocab_size: int) -> Tokens | None:
    """The answer the trace records, shape [output_tokens], or None when the engine must keep what it samples."""
    if request.output_token_ids is not None:
        return np.array(request.output_token_ids, dtype=np.uint32)
    if request.output is None:
        return None
    return segment_tokens(request.output, 0, request.output_tokens, vocab_size)


def replayed_output(request: Request, vocab_size: int) -> Tokens:
    """The answer a replay of the trace decodes, shape [output_tokens]: the recorded one, or a filler named after the
    request, so that every run of a trace sees the same tokens."""
    output = recorded_output(request, vocab_size)
    if output is None:
        output = segment_tokens(f"output of request {request.id}", 0, request.output_tokens, vocab_size)
    return output


@lru_cache(maxsize=8192)
def adapter_seed(adapter_id: str | None, salt: str | None = None) -> int:
    """The hash that starts every chain of one adapter; the base model has its own, and so has each salt."""
    seed = xxh3_64_intdigest(("base" if adapter_id is None else "adapter:" + adapter_id).encode())
    return seed if salt is None else xxh3_64_intdigest(salt.encode(), seed)


def extend_block_hashes(hashes: list[int], tokens: Tokens, block_tokens: int, num_blocks: int, seed: int) -> None:
    """Appends to ``hashes`` until it labels the first ``num_blocks`` full blocks of ``tokens``.

    Each label is the hash of a block's tokens seeded with the label before it, so it stands for the whole prefix and
    the adapter (``seed``). Mutates ``hashes`` only.
    """
    view = memoryview(tokens).cast("B")  # type: ignore[arg-type]
    step = block_tokens * tokens.itemsize
    previous = hashes[-1] if hashes else seed
    for offset in range(len(hashes) * step, num_blocks * step, step):
        previous = xxh3_64_intdigest(view[offset : offset + step], previous)
        hashes.append(previous)
