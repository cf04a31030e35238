"""Rotary embedding against transformers'."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from libra.model.config import RopeConfig
from libra.model.rope import inverse_frequencies, rotate, rotations

HEAD_DIM = 16
SCALINGS = {
    "default": (RopeConfig(5e5), {"rope_type": "default"}),
    "linear": (RopeConfig(5e5, "linear", 4.0), {"rope_type": "linear", "factor": 4.0}),
    "llama3": (
        RopeConfig(5e5, "llama3", 8.0, 1.0, 4.0, 256),
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        },
    ),
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_rotations_equal_transformers(kind: str) -> None:
    ours, theirs = SCALINGS[kind]
    config = LlamaConfig(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        max_position_embeddings=2048,
        rope_parameters={**theirs, "rope_theta": 5e5},
    )
    positions = torch.tensor([0, 1, 17, 300, 2047])
    heads = torch.randn(5, 4, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    cos, sin = LlamaRotaryEmbedding(config)(heads, positions[None])
    expected, _ = apply_rotary_pos_emb(heads.transpose(0, 1)[None], heads.transpose(0, 1)[None], cos, sin)
    rotated = rotate(heads, *rotations(positions, inverse_frequencies(ours, HEAD_DIM), torch.float32))
    torch.testing.assert_close(rotated, expected[0].transpose(0, 1), rtol=1e-5, atol=1e-5)
