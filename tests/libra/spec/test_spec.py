"""Sizes of blocks and adapters, and what the presets say."""

import pytest

from libra.errors import LibraError
from libra.spec import DEVICES, MODELS, AdapterSpec, ModelSpec
from libra.spec.model import TARGET_MODULES

MIB = 1 << 20


@pytest.mark.parametrize(("name", "mib"), [("llama2-7b", 16), ("llama3-8b", 4), ("llama2-34b", 6), ("llama3-70b", 10)])
def test_a_block_of_32_tokens(name: str, mib: int) -> None:
    assert MODELS[name].block_bytes(32) == mib * MIB


@pytest.mark.parametrize(
    ("name", "rank", "blocks"),
    [
        # Llama-3-8B: a unit is 2 * (4096 + 4096) + 2 * (4096 + 1024) = 26,624 elements; 2 Mi elements hold 78.
        # 32 * 32 units / 78 = 13.1; 64 * 32 / 78 = 26.3.
        ("llama3-8b", 32, 14),
        ("llama3-8b", 64, 27),
        # 34B: 2 * (8192 + 8192) + 2 * (8192 + 1024) = 51,200; 3 Mi elements hold 61. 48 * 32 / 61 = 25.2; * 64: 50.4.
        ("llama2-34b", 32, 26),
        ("llama2-34b", 64, 51),
        # Llama-2-7B: 8 * 4096 = 32,768; 8 Mi elements hold 256 exactly.
        ("llama2-7b", 32, 4),
        ("llama2-7b", 64, 8),
    ],
)
def test_adapters_take_whole_blocks(name: str, rank: int, blocks: int) -> None:
    adapter = AdapterSpec("a", rank)
    model = MODELS[name]
    assert adapter.num_blocks(model) == blocks
    assert adapter.num_bytes(model) == rank * model.num_layers * adapter.unit_elems(model) * 2
    assert adapter.num_bytes(model) <= blocks * model.block_bytes()


def test_target_modules_change_the_unit() -> None:
    model = MODELS["llama3-8b"]
    assert AdapterSpec("a", 8, ("q_proj",)).unit_elems(model) == 8192
    assert AdapterSpec("a", 8, ("gate_proj", "down_proj")).unit_elems(model) == 2 * (4096 + 14336)
    everything = AdapterSpec("a", 8, TARGET_MODULES)
    assert everything.unit_elems(model) == 26_624 + 3 * (4096 + 14336)


def test_a_unit_larger_than_a_block_is_refused_with_the_smallest_block_that_fits() -> None:
    narrow = ModelSpec("narrow", 1, 256, 4, 1, 8, 512, 100)  # 16 elements of KV a token
    adapter = AdapterSpec("a", 4)
    with pytest.raises(LibraError, match="'a'") as caught:
        adapter.num_blocks(narrow, 32)
    smallest = int(str(caught.value).split("--block-size ")[1].split()[0])
    assert adapter.num_blocks(narrow, smallest) == 4
    with pytest.raises(LibraError, match="--block-size"):
        adapter.num_blocks(narrow, smallest - 1)


@pytest.mark.parametrize(
    ("name", "billions"), [("llama2-7b", 6.7), ("llama3-8b", 8.0), ("llama2-34b", 33.7), ("llama3-70b", 70.6)]
)
def test_presets_have_as_many_weights_as_their_names_say(name: str, billions: float) -> None:
    assert MODELS[name].num_params / 1e9 == pytest.approx(billions, abs=0.1)


def test_presets_of_the_issue_are_there() -> None:
    assert set(DEVICES) == {"h800", "h200", "a100-80g", "a10"}
    gpus = {"llama2-7b": 1, "llama3-8b": 1, "llama2-34b": 4, "llama3-70b": 8}
    assert {name: MODELS[name].default_tensor_parallel for name in MODELS} == gpus


def test_an_unknown_preset_suggests_the_nearest() -> None:
    with pytest.raises(LibraError, match="unknown model preset 'llama3-8': did you mean 'llama3-8b'"):
        MODELS["llama3-8"]
    with pytest.raises(LibraError, match="nothing is near it"):
        DEVICES["zzzzzz"]
