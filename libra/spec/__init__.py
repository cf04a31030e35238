"""Frozen descriptions of models, adapters and devices, with presets by name."""

from libra.spec.adapter import AdapterSpec
from libra.spec.device import GIB, DeviceSpec
from libra.spec.model import ATTENTION_MODULES, DEFAULT_BLOCK_TOKENS, TARGET_MODULES, ModelSpec
from libra.spec.presets import DEVICES, MODELS

__all__ = [
    "ATTENTION_MODULES",
    "DEFAULT_BLOCK_TOKENS",
    "DEVICES",
    "GIB",
    "MODELS",
    "TARGET_MODULES",
    "AdapterSpec",
    "DeviceSpec",
    "ModelSpec",
]
