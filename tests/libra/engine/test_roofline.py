"""The cost of a step against sums worked by hand, and profiles on disk."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from libra.clock import VirtualClock
from libra.engine.executor import PrefillChunk, StepBatch
from libra.engine.profile import Profile, datasheet_profile, load_profile
from libra.engine.roofline import RooflineExecutor
from libra.engine.sequence import Sequence
from libra.errors import LibraError
from libra.spec import DEVICES, MODELS
from tests.libra.builders import PROFILE, TINY, adapters, request, sequence_of

# The tiny model has 2 layers of q (64x64), k and v (64x32), o (64x64) and three of 64x128: 36,864 weights a layer,
# and a head of 97 x 64 = 6,208. Two bytes each: 159,872 bytes read per step. KV: 256 bytes a token.
LAYERS, HEAD = 2 * 36_864, 6_208
WEIGHT_BYTES = 2 * (LAYERS + HEAD)


def executor(**coefficients: float) -> tuple[VirtualClock, RooflineExecutor]:
    clock = VirtualClock()
    return clock, RooflineExecutor(clock, replace(PROFILE, **coefficients), TINY, adapters(1, 2))


def decoding(prompt: int, adapter: str | None = None) -> Sequence:
    """A sequence about to compute its first generated token after ``prompt`` tokens."""
    sequence = sequence_of(request(0, [1] * prompt, [1] * 20, adapter))
    sequence.num_computed = prompt
    sequence.append(0)
    return sequence


def seconds(batch: StepBatch, **coefficients: float) -> float:
    clock, roofline = executor(**coefficients)
    result = roofline.execute(batch, 1, math.inf)
    assert result.step_ends == [clock.now()]
    assert result.tokens == []
    return clock.now()


def test_a_decode_step_bound_by_memory() -> None:
    batch = StepBatch(decode=[decoding(7), decoding(9)])
    # KV read of 8 and 10 tokens, 2 written.
    expected = 0.01 + (WEIGHT_BYTES + 20 * 256) / 1e9
    assert seconds(batch, flops_per_s=1e15) == pytest.approx(expected)


def test_a_decode_step_bound_by_compute() -> None:
    batch = StepBatch(decode=[decoding(7), decoding(9)])
    # 2 flops a weight and token; attention: 4 * layers * heads * head size = 512 per pair, 18 pairs.
    expected = 0.01 + (2 * 2 * (LAYERS + HEAD) + 512 * 18) / 1e6
    assert seconds(batch, flops_per_s=1e6) == pytest.approx(expected)


def test_a_prefill_chunk_attends_to_what_was_before_and_to_itself() -> None:
    sequence = sequence_of(request(0, [1] * 30, [1], None))
    sequence.num_computed = 10
    batch = StepBatch(prefill=[PrefillChunk(sequence, 5)])
    # Not the last chunk: no head. 5 tokens after 10: 11 + 12 + 13 + 14 + 15 = 65 pairs.
    expected = 0.01 + (2 * 5 * LAYERS + 512 * 65) / 1e6
    assert seconds(batch, flops_per_s=1e6) == pytest.approx(expected)
    last = StepBatch(prefill=[PrefillChunk(sequence, 20)])
    pairs = sum(range(11, 31))
    expected = 0.01 + (2 * 20 * LAYERS + 2 * HEAD + 512 * pairs) / 1e6
    assert seconds(last, flops_per_s=1e6) == pytest.approx(expected)


def test_each_distinct_adapter_is_read_once_and_multiplied_per_token() -> None:
    # A unit of the tiny model: 128 + 96 + 96 + 128 = 448 elements; rank 1 in 2 layers: 1,792 bytes; rank 2 twice that.
    plain = seconds(StepBatch(decode=[decoding(7), decoding(7), decoding(7)]))
    mixed = seconds(StepBatch(decode=[decoding(7, "a0"), decoding(7, "a0"), decoding(7, "a1")]))
    flops = 2 * 896 * 2 + 2 * 1792
    assert mixed - plain == pytest.approx(1e-3 + (1792 + 3584) / 1e9 + flops / 2e9)


def test_the_first_use_of_an_adapter_since_its_load_costs_its_copy() -> None:
    clock, roofline = executor(adapter_first_s=0.5, adapter_first_byte_s=1e-6)
    num_bytes = adapters(1, 2)[1].num_bytes(TINY)
    sequence = decoding(7, "a1")
    took = []
    for generation in (1, 1, 2):
        sequence.adapter_generation = generation
        before_s = clock.now()
        roofline.execute(StepBatch(decode=[sequence, decoding(7)]), 1, math.inf)
        took.append(clock.now() - before_s)
    assert took[0] - took[1] == pytest.approx(0.5 + 1e-6 * num_bytes)
    assert took[2] == pytest.approx(took[0])


def test_what_chunks_cost_beside_decodes_and_behind_a_prefix() -> None:
    behind = sequence_of(request(1, [1] * 20, [1], "a0"))
    behind.num_computed = 6
    chunk = PrefillChunk(behind, 5)
    costs = {"prefix_pair_s": 0.1, "mixed_s": 2.0, "adapter_mixed_s": 30.0}
    for decode, extra_s in (([], 0.0), ([decoding(7)], 2.0), ([decoding(7, "a1")], 32.0)):
        batch = StepBatch(decode, [chunk])
        assert seconds(batch, **costs) - seconds(batch) == pytest.approx(5 * 6 * 0.1 + extra_s)
    alone = StepBatch([decoding(7, "a1")])
    assert seconds(alone, **costs) == seconds(alone)


def test_what_every_chunk_and_every_step_of_more_than_one_token_costs() -> None:
    one, two = StepBatch([decoding(7)]), StepBatch([decoding(7), decoding(9)])
    costs = {"several_s": 2.0, "chunk_s": 0.5}
    assert seconds(one, **costs) == seconds(one)
    assert seconds(two, **costs) - seconds(two) == pytest.approx(2.0)
    prompt = PrefillChunk(sequence_of(request(1, [1] * 20, [1], None)), 20)
    for decode, chunks, extra_s in (([], [prompt], 2.5), ([decoding(7)], [prompt, prompt], 3.0)):
        batch = StepBatch(decode, chunks)
        assert seconds(batch, **costs) - seconds(batch) == pytest.approx(extra_s)


def test_the_base_model_pays_nothing_for_adapters() -> None:
    assert seconds(StepBatch(decode=[decoding(7)])) < seconds(StepBatch(decode=[decoding(7, "a0")])) - 9e-4


def test_communication_is_added_per_step_and_token() -> None:
    batch = StepBatch(decode=[decoding(7), decoding(7)])
    extra = seconds(batch, communication_per_step_s=0.5, communication_per_token_s=0.25) - seconds(batch)
    assert extra == pytest.approx(0.5 + 2 * 0.25)


def test_several_decode_steps_at_once_equal_the_same_steps_one_by_one() -> None:
    clock, roofline = executor()
    at_once = roofline.execute(StepBatch(decode=[decoding(7, "a0"), decoding(9)]), 5, math.inf).step_ends
    clock, roofline = executor()
    sequences = [decoding(7, "a0"), decoding(9)]
    one_by_one = []
    for _ in range(5):
        one_by_one += roofline.execute(StepBatch(decode=sequences), 1, math.inf).step_ends
        for sequence in sequences:
            sequence.num_computed += 1
    assert at_once == one_by_one
    assert clock.now() == at_once[-1]


def test_no_step_starts_at_or_after_the_limit_but_the_first() -> None:
    _, roofline = executor()
    batch = StepBatch(decode=[decoding(7)])
    step = roofline.execute(batch, 1, 0.0).step_ends[0]
    clock, roofline = executor()
    assert len(roofline.execute(batch, 100, 2.5 * step).step_ends) == 3
    assert clock.now() > 2.5 * step


def test_the_price_of_recomputing_grows_with_the_tokens() -> None:
    _, roofline = executor()
    assert roofline.prefill_seconds(100) == pytest.approx(100 * 2 * LAYERS / 2e9)


def test_the_caption_says_simulated_and_from_what() -> None:
    _, roofline = executor()
    assert roofline.describe() == "simulated on tiny (made up for tests)"


# ---- profiles ------------------------------------------------------------------------------------------------------


def test_a_profile_survives_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    profile = replace(PROFILE, r_squared=0.97)
    profile.save(path)
    assert load_profile(path) == profile


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"flops_per_sec": 1.0}, "did you mean 'flops_per_s'"),
        ({"flops_per_s": None}, "flops_per_s"),
        ({"flops_per_s": "fast"}, "flops_per_s"),
        ({"link_bytes_per_s": 0.0}, "link_bytes_per_s"),
        ({"step_overhead_s": -1.0}, "step_overhead_s"),
        ({"memory_bytes_per_s": math.nan}, "memory_bytes_per_s"),
    ],
)
def test_a_profile_with_a_wrong_value_is_refused_by_field(
    tmp_path: Path, change: dict[str, object], fault: str
) -> None:
    path = tmp_path / "profile.json"
    PROFILE.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(LibraError, match=fault) as caught:
        load_profile(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '"x"', '{"name": "x"}'])
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(LibraError, match=r"profile\.json") as caught:
        load_profile(path)
    assert "\n" not in str(caught.value)


def test_a_missing_profile_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LibraError, match=r"none\.json"):
        load_profile(tmp_path / "none.json")


def test_datasheet_profiles_scale_with_the_gpus_and_say_what_they_are() -> None:
    one = datasheet_profile(DEVICES["h800"], MODELS["llama3-70b"], 1)
    eight = datasheet_profile(DEVICES["h800"], MODELS["llama3-70b"], 8)
    assert eight.flops_per_s == pytest.approx(8 * one.flops_per_s)
    assert eight.link_bytes_per_s == pytest.approx(8 * one.link_bytes_per_s)
    assert one.communication_per_step_s == 0.0
    assert eight.communication_per_step_s > 0.0
    assert "datasheet" in one.source
    assert one.r_squared is None


def test_a_decode_step_of_llama3_8b_on_an_h800_takes_some_milliseconds() -> None:
    model = MODELS["llama3-8b"]
    clock = VirtualClock()
    roofline = RooflineExecutor(clock, datasheet_profile(DEVICES["h800"], model, 1), model, [])
    sequence = sequence_of(request(0, [1] * 1000, [1, 1], None))
    sequence.num_computed = 1000
    sequence.append(0)
    roofline.execute(StepBatch(decode=[sequence]), 1, math.inf)
    # 15.1 GB of weights at 80 % of 3.35 TB/s are 5.6 ms; the overhead is 1.5 ms.
    assert 0.0065 < clock.now() < 0.008


def test_profile_type_is_frozen() -> None:
    with pytest.raises(AttributeError):
        PROFILE.name = "other"  # type: ignore[misc]
    assert isinstance(PROFILE, Profile)


def test_estimates_of_steps_are_what_such_steps_take() -> None:
    clock, roofline = executor()
    sequences = [decoding(512, adapter) for adapter in ("a0", "a0", "a1", None)]
    estimate = roofline.step_seconds([s.adapter_id for s in sequences], 1)
    roofline.execute(StepBatch(decode=sequences), 1, math.inf)
    assert estimate == pytest.approx(clock.now(), rel=0.01)
    assert (
        roofline.step_seconds(["a1"] * 8, 64)
        > roofline.step_seconds([None] * 8, 64)
        > roofline.step_seconds([None], 64)
    )
