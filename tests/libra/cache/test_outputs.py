"""S-LoRA's admission test, judged one by one, against the same test over everybody anew."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from libra.cache.outputs import OutputPeak
from libra.engine.sequence import Sequence
from libra.request import Request, Segment

BLOCK_TOKENS = 4


def adapter_blocks(adapter_id: str | None) -> int:
    return 0 if adapter_id is None else int(adapter_id)


def sequence(number: int, prompt: int, output: int, decoded: int) -> Sequence:
    adapter = str(prompt % 5) if prompt % 5 else None
    request = Request(number, 0.0, adapter, output, (Segment(f"p{number}", 0, prompt),))
    made = Sequence(request, np.zeros(prompt + output, dtype=np.uint32), BLOCK_TOKENS)
    made.num_tokens += min(decoded, output)
    return made


def peak_of(together: list[Sequence]) -> int:
    """The definition: the highest of what the first j hold when the j-th ends, over all j."""
    together = sorted(together, key=lambda one: one.num_tokens - one.max_tokens)
    held = np.cumsum([-(-one.num_tokens // BLOCK_TOKENS) for one in together])
    growth = np.array([-(-(one.max_tokens - one.num_tokens) // BLOCK_TOKENS) for one in together])
    adapters = {one.adapter_id for one in together}
    return int((held + growth * np.arange(1, len(together) + 1)).max()) + sum(map(adapter_blocks, adapters))


requests = st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(0, 60))


@given(st.lists(requests, min_size=1, max_size=12), requests)
def test_one_more_request_makes_the_peak_it_has_in_the_whole_order(
    admitted: list[tuple[int, int, int]], candidate: tuple[int, int, int]
) -> None:
    sequences = [sequence(number, *lengths) for number, lengths in enumerate(admitted)]
    one_more = sequence(len(sequences), *candidate)
    peak = OutputPeak(sequences, BLOCK_TOKENS, adapter_blocks)
    assert peak.blocks_with(one_more) == peak_of([*sequences, one_more])


def test_it_holds_until_somebody_has_decoded() -> None:
    sequences = [sequence(0, 8, 8, 0), sequence(1, 8, 8, 3)]
    peak = OutputPeak(sequences, BLOCK_TOKENS, adapter_blocks)
    assert peak.is_of(sequences)
    sequences[1].append(0)
    assert not peak.is_of(sequences)
