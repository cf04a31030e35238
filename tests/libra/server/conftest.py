"""One server for all tests of a module that need nothing special."""

from collections.abc import Iterator

import pytest
import torch

from tests.libra.server.running import Running, engine_settings, running, settings
from tests.tiny_models import TinyModel


@pytest.fixture(scope="module")
def served(tiny_model: TinyModel) -> Iterator[Running]:
    torch.set_num_threads(1)
    with running(settings(), engine_settings(tiny_model)) as server:
        yield server
        server.check_idle()
