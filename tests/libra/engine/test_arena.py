"""The tiers' memory and the copies between them."""

import os
from pathlib import Path

import pytest
import torch

from libra.clock import WallClock
from libra.engine.arena import ArenaCopier, Arenas, LaneCopier, TierCopier
from libra.engine.device import CpuDevice
from libra.engine.link import Direction, Transfer
from libra.engine.thread_link import ThreadLink
from libra.errors import LibraError
from libra.model.adapter_store import AdapterStore
from tests.tiny_models import TinyModel

BLOCK_TOKENS = 16


def resident_bytes() -> int:
    """Memory of this process that is in RAM now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def make(
    tiny: TinyModel, dtype: torch.dtype = torch.float32, lanes: bool = False
) -> tuple[Arenas, AdapterStore, TierCopier]:
    """``lanes``: the copier of a GPU, on a device that does at once what it is told."""
    arenas = Arenas(tiny.spec, BLOCK_TOKENS, hbm_blocks=40, host_blocks=50, dtype=dtype, device=CpuDevice())
    store = AdapterStore(tiny.spec, BLOCK_TOKENS, dtype)
    for path in tiny.adapters.values():
        store.add(path)
    return arenas, store, LaneCopier(arenas, store, CpuDevice()) if lanes else ArenaCopier(arenas, store)


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_survive_the_way_out_and_in(tiny_model: TinyModel, dtype: torch.dtype, lanes: bool) -> None:
    arenas, _, copier = make(tiny_model, dtype, lanes)
    assert arenas.hbm.shape == (40, tiny_model.spec.block_elems(BLOCK_TOKENS))
    assert arenas.host.shape == (50, tiny_model.spec.block_elems(BLOCK_TOKENS))
    arenas.hbm.copy_(torch.randn(arenas.hbm.shape, generator=torch.Generator().manual_seed(1)))
    kept = arenas.hbm.clone()
    copier.copy(Transfer(Direction.OUT, [1], [7, 3, 39], [0, 49, 20], 0))
    arenas.hbm[[7, 3, 39]] = 0.0
    copier.copy(Transfer(Direction.IN, [1], [5, 3, 7], [20, 49, 0], 0))
    assert torch.equal(arenas.hbm[[5, 3, 7]], kept[[39, 3, 7]])
    assert torch.equal(arenas.hbm[8:39], kept[8:39])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_an_untouched_host_tier_takes_no_memory(tiny_model: TinyModel) -> None:
    size = 2 << 30
    blocks = size // tiny_model.spec.block_bytes(BLOCK_TOKENS)
    before = resident_bytes()
    arenas = Arenas(tiny_model.spec, BLOCK_TOKENS, 1, blocks, torch.float32)
    assert arenas.host[blocks - 1].count_nonzero() == 0
    assert arenas.host_bytes.nbytes > 0.9 * size
    assert resident_bytes() - before < 0.1 * size


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_memory_that_has_been_touched_is_there_when_a_save_wants_it(tiny_model: TinyModel) -> None:
    block_bytes = tiny_model.spec.block_bytes(BLOCK_TOKENS)
    arenas = Arenas(tiny_model.spec, BLOCK_TOKENS, 2000, (2 << 30) // block_bytes, torch.float32)
    before = resident_bytes()
    arenas.touch()
    touched = resident_bytes() - before
    assert arenas.hbm.count_nonzero() == 0
    # What a run of minutes saves, of a tier 80 times as large, and all of HBM.
    assert 1900 * block_bytes < touched < 6000 * block_bytes
    arenas.host_bytes[:1000] = 1
    assert resident_bytes() - before - touched < 100 * block_bytes


@pytest.mark.parametrize("lanes", [False, True])
def test_adapters_reach_hbm_from_disk_and_from_host_memory(tiny_model: TinyModel, lanes: bool) -> None:
    arenas, store, copier = make(tiny_model, lanes=lanes)
    adapter_id = list(store)[1]
    packed = store.packed(adapter_id)
    blocks = list(range(10, 10 + len(packed)))
    copier.copy(Transfer(Direction.DISK, [1], blocks, [], 0, adapter_id=adapter_id))
    assert torch.equal(arenas.hbm[blocks], packed)
    copier.fill_host(adapter_id, blocks)
    target = [block + 15 for block in blocks]
    copier.copy(Transfer(Direction.IN, [1], target, blocks, 0, adapter_id=adapter_id))
    assert torch.equal(arenas.hbm[target], packed)


def test_an_adapter_gone_from_disk_is_named(tiny_model: TinyModel, tmp_path: Path) -> None:
    arenas, store, _ = make(tiny_model)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (moved / name).write_bytes((next(iter(tiny_model.adapters.values())) / name).read_bytes())
    spec = store.add(moved)
    (moved / "adapter_model.safetensors").unlink()
    with pytest.raises(LibraError, match=r"adapter_model.safetensors"):
        ArenaCopier(arenas, store).copy(Transfer(Direction.DISK, [1], [0], [], 0, adapter_id=spec.adapter_id))


def test_reading_an_adapter_starts_no_second_team_of_threads(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store, copier = make(tiny_model)
    adapter_id = next(iter(store))
    packed, seen = store.packed(adapter_id), []

    def read(_: str) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return packed

    monkeypatch.setattr(store, "packed", read)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        copier.copy(Transfer(Direction.DISK, [1], list(range(len(packed))), [], 0, adapter_id=adapter_id))
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_blocks_survive_a_link_of_lanes_in_both_directions_at_once(tiny_model: TinyModel) -> None:
    arenas, _, copier = make(tiny_model, lanes=True)
    generator = torch.Generator().manual_seed(2)
    arenas.hbm.normal_(generator=generator)
    arenas.host.normal_(generator=generator)
    hbm, host = arenas.hbm.clone(), arenas.host.clone()
    link = ThreadLink(copier, WallClock())
    transfers = []
    for block in range(20):
        transfers.append(Transfer(Direction.OUT, [1], [block], [block], 1))
        transfers.append(Transfer(Direction.IN, [1], [20 + block], [20 + block], 1))
    for transfer in transfers:
        link.submit(transfer)
    for transfer in transfers[-2:]:
        link.wait(transfer)
    link.close()
    assert {id(transfer) for transfer in link.poll()} == {id(transfer) for transfer in transfers}
    assert torch.equal(arenas.host[:20], hbm[:20])
    assert torch.equal(arenas.hbm[20:], host[20:40])
