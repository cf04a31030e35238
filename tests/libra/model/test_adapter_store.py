import os
import sys
from pathlib import Path

import pytest

from libra.errors import LibraError
from libra.model.adapter import read_adapter
from libra.model.adapter_store import load_weights
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


def test_a_file_that_changed_since_is_said_to_have(tiny_model: TinyModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = next(iter(tiny_model.adapters.values()))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    source = read_adapter(tmp_path, tiny_model.spec)
    tensors = load_file(source.weights_path)
    del tensors[next(iter(tensors))]
    save_file(tensors, source.weights_path)
    with pytest.raises(LibraError, match="is gone; load the adapter again"):
        load_weights(source)
    source.weights_path.write_bytes(b"\0" * 100)
    with pytest.raises(LibraError, match="cannot be read"):
        load_weights(source)
    source.weights_path.unlink()
    with pytest.raises(LibraError, match="cannot be read"):
        load_weights(source)
