"""Where kernels run: on the GPU where there is one, else in Triton's interpreter, never both in one process."""

from dataclasses import dataclass

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
# Where tests put tensors that run no kernel, or only one.
DEVICE = "cuda" if HAS_GPU else "cpu"
pytest.importorskip("triton", reason="Triton exists for Linux alone")


@dataclass(frozen=True)
class Machine:
    """``num_stages`` of the kernels under test: on Hopper the pipeline's depth has changed results."""

    device: str
    num_stages: int


@pytest.fixture(
    params=[
        pytest.param(Machine("cpu", 2), id="interpreter"),
        pytest.param(Machine("cuda", 1), id="cuda-1-stage", marks=pytest.mark.gpu),
        pytest.param(Machine("cuda", 2), id="cuda-2-stages", marks=pytest.mark.gpu),
    ]
)
def machine(request: pytest.FixtureRequest) -> Machine:
    chosen: Machine = request.param
    if chosen.device == "cuda" and not HAS_GPU:
        pytest.skip("no CUDA device")
    if chosen.device == "cpu" and HAS_GPU:
        pytest.skip("kernels are compiled for the CUDA device in this process")
    return chosen
