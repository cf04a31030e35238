"""The CPU engine computes what transformers and peft compute."""

import numpy as np
import pytest

from libra.engine.executor import PrefillChunk, StepBatch
from libra.engine.sequence import SamplingParams
from libra.engine.torch_executor import LineFit
from libra.errors import LibraError
from tests.libra.engine.torch_driver import Driver
from tests.libra.model.reference import greedy_tokens
from tests.tiny_models import TINY_VARIANTS, TinyModel

NUM_TOKENS = 10


def prompts(lengths: list[int], vocab_size: int, seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, vocab_size, length).tolist() for length in lengths]


@pytest.mark.parametrize("variant", TINY_VARIANTS)
def test_a_mixed_batch_equals_one_adapter_at_a_time(tiny_models: dict[str, TinyModel], variant: str) -> None:
    tiny = tiny_models[variant]
    users = [None, *tiny.adapters]
    texts = prompts([5 + 13 * i % 60 for i in range(2 * len(users))], tiny.spec.vocab_size)
    expected = []
    for index, user in enumerate(users):
        mine = texts[2 * index : 2 * index + 2]
        expected += greedy_tokens(tiny.directory, tiny.adapters.get(user or ""), mine, NUM_TOKENS)
    # 17 tokens a block and 11 a chunk: nothing is aligned with anything.
    driver = Driver.make(tiny, block_tokens=19)
    sequences = [driver.sequence(text, NUM_TOKENS, users[i // 2]) for i, text in enumerate(texts)]
    assert driver.run(sequences, chunk_tokens=11) == expected
    assert len({tuple(output) for output in expected}) == len(expected)
