"""The forward pass on Triton kernels gives the tokens of the forward pass on torch."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from libra.errors import LibraError
from libra.kernels.backend import TritonBackend, make_backend
from libra.model.backend import Backend, TorchBackend
from libra.model.tiny import MIXED_TARGETS, TinyAdapters, make_tiny
from tests.libra.engine.torch_driver import Driver
from tests.libra.kernels.conftest import HAS_GPU
from tests.tiny_models import SPEC, TinyModel

NUM_TOKENS = 2

in_the_interpreter = pytest.mark.skipif(HAS_GPU, reason="kernels are compiled for the CUDA device in this process")


def outputs(tiny: TinyModel, backend: Backend) -> list[list[int]]:
    """A mixed batch: the base model and adapters with all and with some targets, prefilled in chunks of 4 tokens while
    others decode, so that chunks have prefixes and steps are of every kind."""
    driver = Driver.make(tiny, block_tokens=19, backend=backend)
    generator = np.random.default_rng(2)
    users = [None, *tiny.adapters]
    prompts = [generator.integers(1, tiny.spec.vocab_size, length).tolist() for length in (2, 6, 3)]
    sequences = [driver.sequence(p, NUM_TOKENS, user) for p, user in zip(prompts, users, strict=True)]
    return driver.run(sequences, chunk_tokens=4)


@in_the_interpreter
def test_engine_tokens_are_those_of_torch(tmp_path: Path) -> None:
    spec = replace(SPEC, num_layers=2)
    paths = make_tiny(tmp_path / "model", spec, TinyAdapters(2, (4, 24), MIXED_TARGETS), max_length=64)
    tiny = TinyModel(tmp_path / "model", spec, {path.name: path for path in paths})
    assert outputs(tiny, make_backend("triton")) == outputs(tiny, make_backend("torch"))


def test_a_backend_goes_by_name() -> None:
    assert isinstance(make_backend("torch"), TorchBackend)
    assert isinstance(make_backend("triton"), TritonBackend)
    with pytest.raises(LibraError, match="did you mean 'triton'"):
        make_backend("tritn")


def run_python(code: str) -> str:
    """Output of a process in which kernels are neither interpreted nor on a GPU."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


WITHOUT_GPU = """
import torch
from libra.errors import LibraError
from libra.kernels.activation import silu_mul
try:
    silu_mul(torch.zeros(2, 4))
except LibraError as error:
    print(error)
"""

WITHOUT_TRITON = (
    """
import sys
sys.modules["triton"] = None
"""
    + WITHOUT_GPU
)


def test_without_a_gpu_kernels_import_and_say_what_to_do() -> None:
    message = run_python(WITHOUT_GPU)
    assert "cannot run on cpu" in message
    assert "TRITON_INTERPRET=1" in message


def test_without_triton_kernels_import_and_say_what_to_do() -> None:
    assert "use --backend torch" in run_python(WITHOUT_TRITON)
