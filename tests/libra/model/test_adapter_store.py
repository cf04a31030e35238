import os
import sys
from pathlib import Path

import pytest

from libra.errors import LibraError
from libra.model.adapter import read_adapter
from libra.model.adapter_store import load_weights
from tests.libra.model.directories import copy_of
from tests.tiny_models import TinyModel


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_an_adapter_again_and_again_takes_no_memory(tiny_model: TinyModel) -> None:
    source = read_adapter(next(iter(tiny_model.adapters.values())), tiny_model.spec)

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def read(times: int) -> int:
        for _ in range(times):
            load_weights(source)
        return resident_bytes()

    # safe_open loses 64 bytes per tensor: three times the limit.
    before = read(200)
    num_reads = 3 * (512 << 10) // (64 * 2 * len(source.tensors))
    assert read(num_reads) - before < 512 << 10


@pytest.fixture
def copied(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """An adapter's directory, to be spoilt."""
    return copy_of(next(iter(tiny_model.adapters.values())), tmp_path / "adapters" / "mine")


def test_a_file_that_changed_since_is_said_to_have(tiny_model: TinyModel, copied: Path) -> None:
    source = read_adapter(copied, tiny_model.spec)
    kept = source.weights_path.read_bytes()
    source.weights_path.write_bytes(kept.replace(b"q_proj.lora_A", b"q_proj.lora_C", 1))
    with pytest.raises(LibraError, match="is gone; load the adapter again"):
        load_weights(source)
    source.weights_path.write_bytes(b"\0" * len(kept))
    with pytest.raises(LibraError, match="cannot be read"):
        load_weights(source)
    for content in (kept + b"\0", kept[:100]):
        source.weights_path.write_bytes(content)
        with pytest.raises(LibraError, match="has changed since the adapter was loaded; load the adapter again"):
            load_weights(source)
    source.weights_path.unlink()
    with pytest.raises(LibraError, match="cannot be read"):
        load_weights(source)


def test_links_are_followed_anew_whenever_weights_are_read(tiny_model: TinyModel, copied: Path, tmp_path: Path) -> None:
    source = read_adapter(copied, tiny_model.spec, roots=(copied.parent.resolve(),))
    path = source.weights_path
    assert load_weights(source)
    outside = tmp_path / "outside.safetensors"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(LibraError, match="leads out of the directories open for adapters"):
        load_weights(source)
    assert load_weights(read_adapter(copied, tiny_model.spec)), "one that may lie anywhere may be a link"
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(LibraError, match=r"leads out of|cannot be read"):
        load_weights(source)
    path.unlink()
    outside.rename(path)
    assert load_weights(source)
