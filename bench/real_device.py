"""Devices on which the engine runs for real, and the models on them. Imports torch only in functions that need it."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench.settings import CPU, CUDA, DeviceDefaults
from libra.errors import LibraError, unknown
from libra.spec import MODELS

if TYPE_CHECKING:
    from libra.engine.device import Device
    from libra.model.backend import Backend
    from libra.model.llama import LlamaModel

REAL_DEVICES = {"cpu": CPU, "cuda": CUDA}
# Where random models are kept between runs.
MODELS_DIRECTORY = Path("models")


def check_measurable(device: str) -> None:
    """Raises LibraError for a device that no engine here runs on for real."""
    if device.startswith("sim:"):
        raise LibraError(f"--device {device}: only a real device can be measured; use --device cpu or cuda")
    if device not in REAL_DEVICES:
        raise unknown("device", device, REAL_DEVICES)


def open_network(
    name: str,
    device: "Device | None",
    dtype: str,
    backend: str,
    defaults: DeviceDefaults,
    num_loras: int | None = None,
    ranks: tuple[int, ...] | None = None,
) -> "LlamaModel":
    """The model called ``name``: a directory, a small random model made there on first use with ``num_loras`` adapters
    of ``ranks``, or on a GPU a preset's shapes with random weights. Raises LibraError where it does not fit."""
    from libra.engine.build_real import load_network
    from libra.kernels.backend import make_backend
    from libra.model.config import DTYPE_BYTES

    kernels = make_backend(backend)
    if dtype not in DTYPE_BYTES:
        raise unknown("dtype", dtype, DTYPE_BYTES)
    if device is not None and is_preset(name):
        return _random_preset(name, device, dtype, kernels)
    directory = model_directory(name, num_loras or defaults.num_loras, ranks or defaults.ranks)
    return load_network(directory, dtype, kernels, device)


def is_preset(name: str) -> bool:
    """Whether ``name`` stands for shapes alone."""
    return name in MODELS and not Path(name).is_dir()


def _random_preset(name: str, device: "Device", dtype: str, backend: "Backend") -> "LlamaModel":
    from dataclasses import replace

    import torch

    from libra.model.config import DTYPE_BYTES
    from libra.model.random_model import random_model

    spec = replace(MODELS[name], dtype_bytes=DTYPE_BYTES[dtype])
    device.check_use(dtype, spec)
    Console(stderr=True).print(f"making random {name} weights on {device.describe()}")
    return random_model(spec, getattr(torch, dtype), device.place, backend)


def model_directory(name: str, num_loras: int, ranks: tuple[int, ...]) -> Path:
    """The directory ``name`` stands for: itself, or that of a random model of this size, made on first use."""
    from libra.model.tiny import TINY_SIZES, TinyAdapters, make_tiny

    if name not in TINY_SIZES or Path(name).is_dir():
        return Path(name)
    directory = MODELS_DIRECTORY / f"{name}-{num_loras}x{'-'.join(map(str, ranks))}"
    if not (directory / "config.json").is_file():
        Console(stderr=True).print(f"making a random {name} model with {num_loras} adapters in {directory}")
        directory.parent.mkdir(exist_ok=True)
        make_tiny(directory, TINY_SIZES[name], TinyAdapters(count=num_loras, ranks=ranks, prefix="lora"))
    return directory
