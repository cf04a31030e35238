"""Variants of the tiny model that tests share."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from libra.model.tiny import MIXED_TARGETS, TINY_SIZES, TinyAdapters, make_tiny
from libra.spec import ModelSpec

SPEC = TINY_SIZES["tiny"]
# Name -> architecture and shapes.
TINY_VARIANTS: dict[str, tuple[str, ModelSpec]] = {
    "llama": ("LlamaForCausalLM", SPEC),
    "llama-tied": ("LlamaForCausalLM", replace(SPEC, tied_embeddings=True)),
    "mistral": ("MistralForCausalLM", replace(SPEC, num_kv_heads=1, head_dim=32)),
    "qwen2": ("Qwen2ForCausalLM", replace(SPEC, num_kv_heads=4)),
}
ADAPTERS = TinyAdapters(count=5, ranks=(4, 8, 2), targets=MIXED_TARGETS)
MAX_LENGTH = 512


@dataclass(frozen=True)
class TinyModel:
    """A model on disk and its adapters' directories by id."""

    directory: Path
    spec: ModelSpec
    adapters: dict[str, Path]


def write_all(root: Path) -> dict[str, TinyModel]:
    """Every variant, in a directory of its name below ``root``."""
    # At this size threads only wait for each other, for milliseconds when the machine is busy.
    torch.set_num_threads(1)
    models = {}
    for name, (architecture, spec) in TINY_VARIANTS.items():
        paths = make_tiny(root / name, spec, ADAPTERS, seed=7, architecture=architecture, max_length=MAX_LENGTH)
        models[name] = TinyModel(root / name, spec, {path.name: path for path in paths})
    return models
