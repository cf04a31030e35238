"""The CPU engine computes what transformers and peft compute, in any mixture and however it goes about it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from libra.engine.executor import PrefillChunk, StepBatch
from libra.engine.sequence import SamplingParams
from libra.errors import LibraError
from libra.model.linear import LinearMap, padded_rows
from libra.model.llama import LlamaModel
from tests.libra.engine.torch_driver import Driver
from tests.libra.model.directories import Tensors, copy_of, edit_json, edit_tensors
from tests.libra.model.reference import greedy_tokens
from tests.tiny_models import MAX_LENGTH, TINY_VARIANTS, TinyModel

NUM_TOKENS = 10


def random_prompts(lengths: list[int], vocab_size: int) -> list[list[int]]:
    generator = np.random.default_rng(11)
    return [generator.integers(1, vocab_size, length).tolist() for length in lengths]


def run_mixed(tiny: TinyModel, driver: Driver, chunk_tokens: int) -> list[list[int]]:
    """Outputs of two prompts for the base model and for each adapter, all in one batch."""
    users = [None, *tiny.adapters]
    texts = mixed_prompts(tiny)
    sequences = [driver.sequence(text, NUM_TOKENS, users[i // 2]) for i, text in enumerate(texts)]
    return driver.run(sequences, chunk_tokens)


def mixed_prompts(tiny: TinyModel) -> list[list[int]]:
    return random_prompts([5 + 13 * i % 60 for i in range(2 * (1 + len(tiny.adapters)))], tiny.spec.vocab_size)


@pytest.mark.parametrize("variant", TINY_VARIANTS)
def test_a_mixed_batch_equals_one_adapter_at_a_time(tiny_models: dict[str, TinyModel], variant: str) -> None:
    tiny = tiny_models[variant]
    texts = mixed_prompts(tiny)
    expected = []
    for index, adapter in enumerate([None, *tiny.adapters.values()]):
        expected += greedy_tokens(tiny.directory, adapter, texts[2 * index : 2 * index + 2], NUM_TOKENS)
    # 19 tokens a block and 11 a chunk: nothing is aligned with anything.
    driver = Driver.make(tiny, block_tokens=19)
    assert run_mixed(tiny, driver, chunk_tokens=11) == expected
    assert len({tuple(output) for output in expected}) == len(expected)


def test_biases_and_llama3_rope_are_computed(tiny_model: TinyModel, tmp_path: Path) -> None:
    directory = copy_of(tiny_model.directory, tmp_path / "biased")
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 32
    edit_json(directory / "config.json", attention_bias=True, rope_scaling=scaling)
    edit_tensors(directory / "model.safetensors", _add_attention_biases)
    biased = TinyModel(directory, tiny_model.spec, {})
    texts = random_prompts([60, 9], tiny_model.spec.vocab_size)
    driver = Driver.make(biased)
    outputs = driver.run([driver.sequence(text, NUM_TOKENS, None) for text in texts], chunk_tokens=25)
    assert outputs == greedy_tokens(directory, None, texts, NUM_TOKENS)
    plain = Driver.make(tiny_model)
    assert outputs != plain.run([plain.sequence(text, NUM_TOKENS, None) for text in texts], chunk_tokens=25)


def _add_attention_biases(tensors: Tensors) -> None:
    generator = torch.Generator().manual_seed(2)
    for name in [name for name in tensors if "_proj.weight" in name and "self_attn" in name]:
        bias = torch.randn(len(tensors[name]), generator=generator)
        tensors[name.removesuffix("weight") + "bias"] = bias


@pytest.mark.parametrize("plain", [{"stitch": False}, {"prepack": False}])
def test_the_plain_twins_give_the_same_tokens(tiny_model: TinyModel, plain: dict[str, bool]) -> None:
    fast = run_mixed(tiny_model, Driver.make(tiny_model), chunk_tokens=16)
    assert run_mixed(tiny_model, Driver.make(tiny_model, **plain), chunk_tokens=16) == fast


@pytest.mark.parametrize(("block_tokens", "chunk_tokens"), [(7, 512), (16, 1), (64, 30)])
def test_blocks_and_chunks_of_any_size_give_the_same_tokens(
    tiny_model: TinyModel, block_tokens: int, chunk_tokens: int
) -> None:
    expected = run_mixed(tiny_model, Driver.make(tiny_model), chunk_tokens=16)
    assert run_mixed(tiny_model, Driver.make(tiny_model, block_tokens), chunk_tokens) == expected


def test_bfloat16_stays_near_float32(tiny_model: TinyModel) -> None:
    exact = run_mixed(tiny_model, Driver.make(tiny_model), chunk_tokens=16)
    rounded = run_mixed(tiny_model, Driver.make(tiny_model, dtype="bfloat16"), chunk_tokens=16)
    first_tokens_equal = sum(a[0] == b[0] for a, b in zip(exact, rounded, strict=True))
    assert first_tokens_equal >= 0.7 * len(exact)


def test_adapters_change_the_output_of_one_prompt(tiny_model: TinyModel) -> None:
    driver = Driver.make(tiny_model)
    prompt = random_prompts([40], tiny_model.spec.vocab_size)[0]
    outputs = driver.run([driver.sequence(prompt, NUM_TOKENS, user) for user in [None, *tiny_model.adapters]], 64)
    assert len({tuple(output) for output in outputs}) == 1 + len(tiny_model.adapters)


def test_results_come_in_the_order_of_the_batch(tiny_model: TinyModel) -> None:
    """Chunks are regrouped by adapter inside; the caller must not notice."""
    driver = Driver.make(tiny_model)
    users = [*reversed(tiny_model.adapters), None]
    texts = random_prompts([9] * len(users), tiny_model.spec.vocab_size)
    together = [driver.sequence(text, 1, user) for text, user in zip(texts, users, strict=True)]
    driver.step([], [PrefillChunk(sequence, 9) for sequence in together])
    alone = [driver.sequence(text, 1, user) for text, user in zip(texts, users, strict=True)]
    for sequence in alone:
        driver.step([], [PrefillChunk(sequence, 9)])
    assert [s.tokens[9] for s in together] == [s.tokens[9] for s in alone]


def test_only_last_chunks_yield_tokens(tiny_model: TinyModel) -> None:
    driver = Driver.make(tiny_model)
    sequence = driver.sequence(random_prompts([20], tiny_model.spec.vocab_size)[0], 2, None)
    assert driver.executor.execute(StepBatch([], [PrefillChunk(sequence, 8)]), 5, 0.0).tokens == []
    sequence.num_computed = 8
    assert len(driver.executor.execute(StepBatch([], [PrefillChunk(sequence, 12)]), 5, 0.0).tokens) == 1


def test_a_shared_prefix_is_read_from_the_pool(tiny_model: TinyModel) -> None:
    driver = Driver.make(tiny_model)
    user = next(iter(tiny_model.adapters))
    prompt = random_prompts([50], tiny_model.spec.vocab_size)[0]
    first = driver.sequence(prompt, NUM_TOKENS, user)
    expected = driver.run([first], 64)
    second = driver.sequence(prompt, NUM_TOKENS, user)
    second.block_table[:3] = first.block_table[:3]
    second.num_computed = 3 * driver.block_tokens
    assert driver.run([second], 64) == expected


@pytest.mark.parametrize("stitch", [True, False])
def test_a_new_generation_is_read_anew(tiny_model: TinyModel, stitch: bool) -> None:
    """An adapter that was evicted and came back lies elsewhere, and its old blocks hold something else."""
    driver = Driver.make(tiny_model, stitch=stitch)
    first, other, *_ = tiny_model.adapters
    prompt = random_prompts([30], tiny_model.spec.vocab_size)[0]
    expected = driver.run([driver.sequence(prompt, NUM_TOKENS, first)], 64)
    driver.hbm[driver.adapter_blocks[first]] = 1e3
    driver.load_adapter(first)
    moved = driver.sequence(prompt, NUM_TOKENS, first)
    moved.adapter_generation = 1
    assert driver.run([moved], 64) == expected
    driver.executor.forget(first)
    again = driver.sequence(prompt, NUM_TOKENS, first)
    again.adapter_generation = 1
    assert driver.run([again, driver.sequence(prompt, NUM_TOKENS, other)], 64)[:1] == expected


def test_a_seeded_request_does_not_depend_on_its_neighbours(tiny_model: TinyModel) -> None:
    driver = Driver.make(tiny_model)
    prompt, other = random_prompts([12, 20], tiny_model.spec.vocab_size)
    drawn = SamplingParams(temperature=1.0, top_k=50, top_p=0.9, seed=5)
    alone = driver.run([driver.sequence(prompt, NUM_TOKENS, None, drawn)], 64)[0]
    neighbour = driver.sequence(other, NUM_TOKENS, None, SamplingParams(temperature=1.0))
    together = driver.run([neighbour, driver.sequence(prompt, NUM_TOKENS, None, drawn)], 64)[1]
    greedy = driver.run([driver.sequence(prompt, NUM_TOKENS, None)], 64)[0]
    assert alone == together
    assert alone != greedy


def test_a_context_beyond_the_models_limit_is_refused(tiny_model: TinyModel) -> None:
    driver = Driver.make(tiny_model)
    sequence = driver.sequence([1] * (MAX_LENGTH + 1), 1, None)
    with pytest.raises(LibraError, match=f"beyond the {MAX_LENGTH} tokens"):
        driver.executor.execute(StepBatch([], [PrefillChunk(sequence, MAX_LENGTH + 1)]), 1, 0.0)


def test_warm_up_gives_prefill_a_price(tiny_model: TinyModel) -> None:
    driver = Driver.make(tiny_model)
    assert driver.executor.prefill_seconds(256) == 0.0
    driver.executor.warm_up(64)
    assert 0 < driver.executor.prefill_seconds(1) <= driver.executor.prefill_seconds(256)
    assert driver.executor.describe().startswith("measured on cpu (")
    assert f"{torch.get_num_threads()} threads, float32)" in driver.executor.describe()


def watch_rows(model: LlamaModel) -> set[int]:
    """The row counts of all products with weights from now on. Mutates ``model``."""
    seen: set[int] = set()

    def watched(product: LinearMap) -> LinearMap:
        def multiply(x: torch.Tensor) -> torch.Tensor:
            seen.add(len(x))
            return product(x)

        return multiply

    model._layers = [
        replace(
            layer,
            qkv=watched(layer.qkv),
            output=watched(layer.output),
            gate_up=watched(layer.gate_up),
            down=watched(layer.down),
        )
        for layer in model._layers
    ]
    model._head = watched(model._head)
    return seen


def test_products_have_few_row_counts_whatever_the_batch(tiny_model: TinyModel) -> None:
    driver = Driver.make(tiny_model)
    seen = watch_rows(driver.executor._model)
    # Two more join in every step, until 22 decode together; then they end two by two.
    users = [None, *tiny_model.adapters]
    prompts = random_prompts([3] * 22, tiny_model.spec.vocab_size)
    driver.run([driver.sequence(text, 20, users[i % len(users)]) for i, text in enumerate(prompts)], chunk_tokens=4)
    assert seen == {padded_rows(count) for count in seen}
    assert {2, 16, 24} <= seen


def test_warm_up_compiles_every_product_of_a_short_step(tiny_model: TinyModel) -> None:
    driver = Driver.make(tiny_model)
    seen = watch_rows(driver.executor._model)
    driver.executor.warm_up(64)
    assert seen == {padded_rows(count) for count in range(1, 513)}
