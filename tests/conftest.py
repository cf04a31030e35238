"""Random models for tests, written once per session."""

from pathlib import Path

import pytest

from tests.tiny_models import TINY_VARIANTS, TinyModel, write_variant


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyModel]:
    """Model directories by variant, each with adapters of several ranks and targets."""
    root: Path = tmp_path_factory.mktemp("models")
    return {name: write_variant(root / name, name) for name in TINY_VARIANTS}


@pytest.fixture(scope="session")
def tiny_model(tiny_models: dict[str, TinyModel]) -> TinyModel:
    """The plain Llama variant."""
    return tiny_models["llama"]
