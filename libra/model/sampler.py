"""The next token from logits: greedy, or drawn with temperature, top-k and top-p."""

from collections.abc import Sequence as Items

import torch

from libra.engine.sequence import SamplingParams


class Sampler:
    """Draws tokens. Requests without a seed of their own share one generator, started from ``seed``."""

    def __init__(self, seed: int) -> None:
        self._shared = torch.Generator().manual_seed(seed)

    def sample(self, logits: torch.Tensor, params: Items[SamplingParams], positions: Items[int]) -> list[int]:
        """One token per row of ``logits`` [rows, vocabulary].

        ``positions`` are the rows' positions in their sequences. A request with a seed draws from a generator made of
        seed and position, so its tokens depend neither on its neighbours nor on being preempted and recomputed.
        """
        tokens: list[int] = logits.argmax(dim=-1).tolist()
        for row, (param, position) in enumerate(zip(params, positions, strict=True)):
            if param.temperature > 0:
                tokens[row] = self._draw(logits[row], param, position)
        return tokens

    def _draw(self, logits: torch.Tensor, params: SamplingParams, position: int) -> int:
        generator = self._shared
        if params.seed is not None:
            generator = torch.Generator().manual_seed(hash((params.seed, position)) & (2**63 - 1))
        probabilities = filtered_probabilities(logits, params)
        return int(torch.multinomial(probabilities, 1, generator=generator))


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
    ordered[before >= params.top_p] = 0.0
    return torch.zeros_like(probabilities).scatter_(0, tokens, ordered)
