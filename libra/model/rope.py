"""Rotary position embedding, half-rotation layout."""

import math

import torch

from libra.model.config import RopeConfig


def inverse_frequencies(config: RopeConfig, head_dim: int) -> torch.Tensor:
    """Radians per position of each pair of dimensions, float32 [head_dim / 2], with the config's scaling."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    plain = 1.0 / config.theta**exponents
    if config.kind == "linear":
        return plain / config.factor
    if config.kind == "llama3":
        return _llama3(plain, config)
    return plain


def _llama3(plain: torch.Tensor, config: RopeConfig) -> torch.Tensor:
    """Long wavelengths are slowed by ``factor``, short ones kept, and those between interpolated."""
    wavelengths = 2 * math.pi / plain
    turns = config.original_max_length / wavelengths
    smooth = (turns - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    between = (1 - smooth) * plain / config.factor + smooth * plain
    scaled = torch.where(turns < config.low_freq_factor, plain / config.factor, plain)
    is_between = (turns >= config.low_freq_factor) & (turns <= config.high_freq_factor)
    return torch.where(is_between, between, scaled)


def rotations(
    positions: torch.Tensor, frequencies: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines for ``positions`` [tokens], each [tokens, 1, head_dim], for ``rotate``."""
    angles = positions[:, None].float() * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1)[:, None].to(dtype), torch.cat((-sin, sin), -1)[:, None].to(dtype)


def rotate(heads: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """Rotates ``heads`` [tokens, heads, head_dim]: dimension i pairs with i + head_dim / 2. Returns a new tensor."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), signed_sin)
