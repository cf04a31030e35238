"""The next token from logits: greedy, or drawn with temperature, top-k and top-p."""

from collections.abc import Sequence as Items
from typing import NamedTuple

import torch

from libra.engine.sequence import NO_TOKEN, SamplingParams, Sequence, TokenLogprobs


class Draw(NamedTuple):
    """``logprobs`` None where the request asks for none."""

    token: int
    logprobs: TokenLogprobs | None


class Sampler:
    """Draws tokens. Requests without a seed of their own share one generator, started from ``seed``."""

    def __init__(self, seed: int) -> None:
        self._shared = torch.Generator().manual_seed(seed)

    @torch.inference_mode()
    def sample(self, logits: torch.Tensor, sequences: Items[Sequence]) -> list[Draw]:
        """One token per row of ``logits`` [rows, vocabulary], each the next of its sequence. May mutate ``logits``.

        A request with a seed draws from a generator made of seed and position, so its tokens depend neither on its
        neighbours nor on being preempted and recomputed. A row whose largest value is not finite (an adapter that
        overflows) has NO_TOKEN.
        """
        raw = {row: logits[row].clone() for row, one in enumerate(sequences) if one.sampling.logprobs is not None}
        for row, sequence in enumerate(sequences):
            forbidden = forbidden_tokens(sequence)
            if forbidden:
                logits[row, forbidden] = -torch.inf
        largest, best = logits.max(dim=-1)
        tokens: list[int] = best.masked_fill_(~largest.isfinite(), NO_TOKEN).tolist()
        for row, sequence in enumerate(sequences):
            if sequence.sampling.temperature > 0 and tokens[row] != NO_TOKEN:
                tokens[row] = self._draw(logits[row], sequence.sampling, sequence.num_tokens)
        return [
            Draw(token, token_logprobs(raw[row], token, sequence.sampling.logprobs or 0) if row in raw else None)
            for row, (token, sequence) in enumerate(zip(tokens, sequences, strict=True))
        ]

    def _draw(self, logits: torch.Tensor, params: SamplingParams, position: int) -> int:
        generator = self._shared
        if params.seed is not None:
            generator = torch.Generator().manual_seed(hash((params.seed, position)) & (2**63 - 1))
        probabilities = filtered_probabilities(logits, params)
        return int(torch.multinomial(probabilities, 1, generator=generator))


def forbidden_tokens(sequence: Sequence) -> list[int]:
    """The stop tokens while it is too early for them."""
    params = sequence.sampling
    return list(params.stop_token_ids) if sequence.num_output_tokens < params.min_tokens else []


def filtered_probabilities(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Weights [vocabulary] to draw from, not normalised: softmax at the temperature, zero outside top-k and top-p.

    Top-p keeps the fewest most likely tokens whose probabilities add up to at least ``top_p``, at least one.
    """
    probabilities = torch.softmax(logits.float() / params.temperature, dim=-1)
    ordered, tokens = probabilities.sort(descending=True)
    if params.top_k > 0:
        ordered[params.top_k :] = 0.0
        ordered /= ordered.sum()
    before = ordered.cumsum(0) - ordered
    before[0] = -1.0  # however small top_p is
    ordered[before >= params.top_p] = 0.0
    return torch.zeros_like(probabilities).scatter_(0, tokens, ordered)


def token_logprobs(logits: torch.Tensor, token: int, count: int) -> TokenLogprobs:
    """Of ``token`` and of the ``count`` most likely tokens, from ``logits`` [vocabulary]."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    best, tokens = logprobs.topk(min(count, len(logprobs)))
    return TokenLogprobs(float(logprobs[token]), list(zip(tokens.tolist(), best.tolist(), strict=True)))
