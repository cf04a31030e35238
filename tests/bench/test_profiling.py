"""Fits recover what was planted, measured profiles survive the disk and refuse what they were not measured for."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.profiling.batches import BatchMaker, adapter_name, load_anew
from bench.profiling.fit import UNBOUND, Quality, fit_line, fit_steps, non_negative_least_squares, predict
from bench.profiling.points import CPU_SCALE, GPU_SCALE, KINDS, PointScale, StepPoint, step_points
from bench.profiling.running_fit import LEVELS, fit_running
from libra.clock import VirtualClock
from libra.engine.executor import StepBatch
from libra.engine.profile import Profile, datasheet_profile, load_profile
from libra.engine.roofline import RooflineExecutor
from libra.engine.step_demand import StepCounter, StepDemand
from libra.errors import LibraError
from libra.spec import DEVICES, MODELS, ModelSpec
from tests.libra.builders import PROFILE

if TYPE_CHECKING:
    from tests.tiny_models import TinyModel

MODEL = ModelSpec("planted", 8, 512, 8, 4, 64, 1408, 8192, dtype_bytes=4)
BLOCK_TOKENS = 32
# Steps of a few sequences are bound by memory, of many tokens by compute.
PLANTED = {
    "step_overhead_s": 3e-3,
    "flops_per_s": 8e10,
    "memory_bytes_per_s": 2e10,
    "adapter_overhead_s": 2e-3,
    "sequence_s": 3e-4,
    "context_token_s": 5e-6,
    "several_s": 4e-4,
    "chunk_s": 7e-4,
    "adapter_chunk_s": 1e-3,
    "prefix_pair_s": 1e-7,
    "mixed_s": 8e-4,
    "adapter_mixed_s": 1.5e-3,
    "adapter_first_s": 2e-3,
    "adapter_first_byte_s": 5e-10,
    "adapter_gather_byte_s": 1e-10,
}


def batch_of(maker: BatchMaker, point: StepPoint) -> StepBatch:
    batch = maker.make(point)
    if point.first_use:
        load_anew(batch)
    return batch


def planted_steps(noise: float, points: list[StepPoint] | None = None) -> tuple[list[StepDemand], list[float]]:
    """What the simulator takes for every point under the planted coefficients, with relative noise on it."""
    points = points or step_points(CPU_SCALE, 1024)
    maker = BatchMaker(MODEL, BLOCK_TOKENS, points)
    generator, counter = np.random.default_rng(3), StepCounter(MODEL, maker.adapters)
    demands, seconds = [], []
    for point in points:
        clock = VirtualClock()
        roofline = RooflineExecutor(clock, replace(PROFILE, **PLANTED), MODEL, maker.adapters)
        roofline.execute(batch_of(maker, point), 1, 0.0)
        names = [adapter_name(*adapter) for adapter in point.ranks.items()]
        demands.append(counter.demand(maker.make(point), names if point.first_use else ()))
        seconds.append(clock.now() * (1 + noise * generator.standard_normal()))
    return demands, seconds


def test_without_noise_the_planted_coefficients_come_back_exactly() -> None:
    fit = fit_steps(*planted_steps(0.0))
    assert fit.coefficients == pytest.approx(PLANTED, rel=1e-6)


def test_with_noise_the_coefficients_come_back_nearly() -> None:
    demands, seconds = planted_steps(0.03)
    fit = fit_steps(demands, seconds)
    for name in ("flops_per_s", "context_token_s"):
        assert fit.coefficients[name] == pytest.approx(PLANTED[name], rel=0.1)
    # What a model's weights cost is told from the overhead by the KV alone: their sum is what a step knows.
    weights = demands[0].num_bytes
    fixed = [c["step_overhead_s"] + weights / c["memory_bytes_per_s"] for c in (fit.coefficients, PLANTED)]
    assert fixed[0] == pytest.approx(fixed[1], rel=0.1)
    quality = Quality.of(np.array(seconds), fit.seconds)
    assert quality.r_squared is not None
    assert quality.r_squared > 0.99
    assert quality.mean_error < 0.04


def test_the_fit_says_what_the_simulator_says() -> None:
    points = step_points(CPU_SCALE, 1024)
    maker = BatchMaker(MODEL, BLOCK_TOKENS, points)
    fit = fit_steps(*planted_steps(0.05, points))
    for point, fitted in zip(points, fit.seconds, strict=True):
        clock = VirtualClock()
        roofline = RooflineExecutor(clock, replace(PROFILE, **fit.coefficients), MODEL, maker.adapters)
        roofline.execute(batch_of(maker, point), 1, 0.0)
        assert clock.now() == pytest.approx(fitted, rel=1e-9)


def test_what_never_binds_is_unbound_and_nothing_is_negative() -> None:
    demands = [StepDemand(1e9 * n, 1e6, 0.0, 0.0, n, 10.0 * n) for n in range(1, 20)]
    fit = fit_steps(demands, [0.01 + 1e-12 * demand.flops - 1e-5 * demand.sequences for demand in demands])
    assert fit.coefficients["sequence_s"] == 0.0
    assert min(fit.coefficients.values()) >= 0.0
    assert fit.coefficients["adapter_overhead_s"] == 0.0


def test_levels_come_from_the_running_engine_with_what_disturbs_it_and_slopes_from_the_points() -> None:
    demands, seconds = planted_steps(0.0)
    # Every step 10 % off or on, by turns, and each chunk longer by a millisecond; before each step half of one.
    ran = [
        (demand, s * (1.1 if number % 2 else 0.9) + 1e-3 * demand.chunks)
        for number, (demand, s) in enumerate(zip(demands, seconds, strict=True))
    ]
    running = fit_running(PLANTED, ran, [(demand, 5e-4) for demand in demands])
    assert running.around == pytest.approx(dict.fromkeys(LEVELS, 0.0) | {"step_overhead_s": 5e-4}, abs=1e-12)
    levels = PLANTED | {name: PLANTED[name] + running.within[name] for name in LEVELS}
    relative = (predict(levels, demands) - [s for _, s in ran]) / predict(PLANTED, demands)
    for has_chunk in (False, True):
        assert relative[[bool(demand.chunks) == has_chunk for demand in demands]].mean() == pytest.approx(0.0, abs=0.01)


def test_one_pause_of_the_machine_is_not_spread_over_all_steps() -> None:
    demands, seconds = planted_steps(0.0)
    decodes = [(d, s) for d, s in zip(demands, seconds, strict=True) if not d.chunks] * 20
    paused = [(decodes[0][0], 10.0), *decodes[1:]]
    running = fit_running(PLANTED, paused, decodes)
    levels = PLANTED | {name: PLANTED[name] + running.within[name] for name in LEVELS}
    assert predict(levels, demands).mean() == pytest.approx(np.mean(seconds), rel=0.02)
    # There was no chunk to tell anything of.
    assert running.within["chunk_s"] == running.within["adapter_chunk_s"] == 0.0


def test_a_level_falls_no_lower_than_to_zero() -> None:
    demands, seconds = planted_steps(0.0)
    without = [(d, s - PLANTED["chunk_s"] * d.chunks) for d, s in zip(demands, seconds, strict=True)]
    running = fit_running(PLANTED, without, without)
    assert running.within["chunk_s"] == pytest.approx(-PLANTED["chunk_s"])


def test_too_few_points_are_refused() -> None:
    with pytest.raises(LibraError, match="2 steps were measured"):
        fit_steps([StepDemand(1.0, 1.0, 0.0, 0.0, 1, 1.0)] * 2, [1.0, 1.0])


def test_least_squares_stay_at_zero_where_the_plain_solution_is_below() -> None:
    columns = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    assert non_negative_least_squares(columns, np.array([3.0, 2.0, 1.0])) == pytest.approx([2.0, 0.0])
    assert non_negative_least_squares(columns, np.array([2.0, 3.0, 4.0])) == pytest.approx([1.0, 1.0])
    assert non_negative_least_squares(columns, np.array([-1.0, -2.0, -3.0])) == pytest.approx([0.0, 0.0])


def test_a_line_gives_latency_and_bandwidth() -> None:
    line = fit_line([1000, 2000, 4000], [0.003, 0.004, 0.006])
    assert (line.latency_s, line.bytes_per_s) == pytest.approx((0.002, 1e6))
    one_size = fit_line([1000, 1000], [0.002, 0.002])
    assert (one_size.latency_s, one_size.bytes_per_s) == (0.0, pytest.approx(5e5))
    assert fit_line([1000, 2000], [0.003, 0.003]).bytes_per_s == UNBOUND


@pytest.mark.parametrize(("scale", "longest"), [(CPU_SCALE, 300), (GPU_SCALE, 4096)])
def test_every_kind_of_step_is_measured_within_the_longest_context(scale: PointScale, longest: int) -> None:
    points = step_points(scale, longest)
    assert {point.kind for point in points} == set(KINDS)
    assert max(point.longest for point in points) <= longest
    assert len(points) == len({str(point) for point in points})


def test_a_batch_is_its_point_and_shares_no_block() -> None:
    points = step_points(CPU_SCALE, 1024)
    maker = BatchMaker(MODEL, BLOCK_TOKENS, points)
    for point in points:
        batch: StepBatch = maker.make(point)
        assert [sequence.num_computed for sequence in batch.decode] == [part.context for part in point.decode]
        assert all(sequence.is_decoding for sequence in batch.decode)
        assert [(c.sequence.num_computed, c.num_tokens, c.is_last) for c in batch.prefill] == [
            (part.prefix, part.tokens, True) for part in point.prefill
        ]
        sequences = [*batch.decode, *(chunk.sequence for chunk in batch.prefill)]
        tables = [block for sequence in sequences for block in sequence.block_table]
        adapters = [block for blocks in {tuple(s.adapter_blocks) for s in sequences} for block in blocks]
        assert len({*tables, *adapters}) == len(tables) + len(adapters)
        assert max(tables) < maker.num_blocks


# ---- profiles ------------------------------------------------------------------------------------------------------


def measured_profile(model: ModelSpec = MODEL) -> Profile:
    return replace(
        PROFILE,
        sequence_s=1e-4,
        model=asdict(model),
        device="cpu",
        tensor_parallel=1,
        r_squared=0.99,
        fit={"rounds": 5, "kinds": {"decode": {"r_squared": 0.98}}, "steps": [{"median_s": 0.01}]},
    )


def test_a_measured_profile_survives_the_disk_with_its_fit(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    measured_profile().save(path)
    assert load_profile(path) == measured_profile()


def test_a_datasheet_profile_has_no_fields_of_measured_ones() -> None:
    datasheet = datasheet_profile(DEVICES["h800"], MODELS["llama3-8b"], 1).as_dict()
    assert not {"sequence_s", "context_token_s", "model", "device", "fit"} & datasheet.keys()


@pytest.mark.parametrize(
    ("model", "device", "tensor_parallel", "fault"),
    [
        (
            replace(MODEL, name="other", num_layers=9),
            "cpu",
            1,
            "another model: planted, not other .num_layers 8, not 9.",
        ),
        (MODEL, "h800", 1, "another device: cpu, not h800"),
        (MODEL, "cpu", 2, "another degree of tensor parallelism: 1, not 2"),
    ],
)
def test_a_profile_of_something_else_is_refused(
    model: ModelSpec, device: str, tensor_parallel: int, fault: str
) -> None:
    with pytest.raises(LibraError, match=fault) as caught:
        measured_profile().check_use(model, device, tensor_parallel)
    assert "\n" not in str(caught.value)


def test_a_profile_whose_model_is_no_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(PROFILE.as_dict() | {"model": "llama3-8b"}), encoding="utf-8")
    with pytest.raises(LibraError, match="model is 'llama3-8b'; it must be an object"):
        load_profile(path)


def is_refused(profile: Profile, model: ModelSpec, device: str, tensor_parallel: int) -> bool:
    try:
        profile.check_use(model, device, tensor_parallel)
    except LibraError:
        return True
    return False


def test_names_of_models_and_unnamed_profiles_do_not_matter() -> None:
    renamed = replace(MODEL, name="the same with other adapters")
    assert not is_refused(measured_profile(), renamed, "cpu", 1)
    assert is_refused(measured_profile(), replace(renamed, num_layers=9), "cpu", 1)
    assert not is_refused(PROFILE, MODEL, "h800", 4)
    assert is_refused(measured_profile(), MODEL, "h800", 4), "this one says what it was measured on"


def test_libra_bench_refuses_a_profile_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    measured_profile().save(path)
    result = CliRunner().invoke(app, ["bench", "--workload", "chatbot", "--profile", str(path)])
    assert isinstance(result.exception, LibraError)
    assert "measured for another model" in str(result.exception)


def test_the_command_measures_fits_and_writes_a_profile(tiny_model: "TinyModel", tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    arguments = ["--model", str(tiny_model.directory), "--rounds", "1", "--budget", "0", "--out", str(path)]
    result = CliRunner().invoke(app, ["profile", *arguments])
    assert result.exception is None, result.output
    profile = load_profile(path)
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["name"], summary["r_squared"]) == ("cpu-llama-float32", profile.r_squared)
    assert "measured on cpu" in profile.source
    profile.check_use(replace(tiny_model.spec, name="other"), "cpu", 1)
    fit = profile.fit
    assert fit is not None
    assert fit["rounds"] == 1
    assert set(KINDS) <= fit["kinds"].keys()
    # What the file says of a point is what the simulator takes for it.
    points = step_points(CPU_SCALE, 512)
    maker = BatchMaker(tiny_model.spec, 32, points)
    for point, row in zip(points, fit["steps"], strict=True):
        clock = VirtualClock()
        RooflineExecutor(clock, profile, tiny_model.spec, maker.adapters).execute(batch_of(maker, point), 1, 0.0)
        counts = (
            1,
            row["decode"] + row["chunks"],
            row["decode"] + row["prefill_tokens"] > 1,
            row["chunks"],
            len({chunk.adapter for chunk in point.prefill} - {None}),
        )
        added_s = sum(
            count * fit["running"][where][name]
            for where in ("within", "around")
            for name, count in zip(LEVELS, counts, strict=True)
        )
        assert clock.now() == pytest.approx(row["fitted_s"] + added_s, rel=1e-9)
    assert fit["running"]["steps"] > 20
    assert "running engine" in fit["kinds"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--device", "cuda"], "--device cuda: "),
        (["--device", "sim:h800"], "only a real device can be measured"),
        (["--model", "tiny", "--out", "."], "is a directory"),
    ],
)
def test_what_cannot_be_profiled_is_one_line(arguments: list[str], fault: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["profile", "--out", str(tmp_path / "profile.json"), *arguments])
    assert isinstance(result.exception, LibraError)
    assert fault in str(result.exception)
