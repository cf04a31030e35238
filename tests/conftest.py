"""Options of the test suite, and random models written once per session."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.tiny_models import TinyModel


if not Path("/dev/nvidiactl").exists():
    # Without a GPU kernels run in Triton's interpreter. Triton reads this once, whoever imports it first.
    os.environ["TRITON_INTERPRET"] = "1"

# The same examples in every run, however slow the machine is; --hypothesis-profile default draws others.
hypothesis.settings.register_profile(
    "libra", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("libra")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden counts anew: look at the difference")


@pytest.fixture(scope="session")
def update_golden(pytestconfig: pytest.Config) -> bool:
    """Whether golden files are to be written instead of compared."""
    return bool(pytestconfig.getoption("--update-golden"))


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> "dict[str, TinyModel]":
    """Model directories by variant, each with adapters of several ranks and targets."""
    # Imported here, so that tests of the simulator never load torch.
    from tests import tiny_models as variants

    root: Path = tmp_path_factory.mktemp("models")
    return variants.write_all(root)


@pytest.fixture(scope="session")
def tiny_model(tiny_models: "dict[str, TinyModel]") -> "TinyModel":
    """The plain Llama variant."""
    return tiny_models["llama"]
