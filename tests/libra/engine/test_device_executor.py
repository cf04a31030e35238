"""The executor behind --device cuda, on a device that does at once what it is told: the CPU."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from libra.cache.fastlibra import FASTLIBRA
from libra.clock import WallClock
from libra.engine.build import CacheSizes
from libra.engine.build_real import BackendFallback, build_real_engine, find_adapters
from libra.engine.config import EngineConfig
from libra.engine.cuda_device import CudaDevice
from libra.engine.decode_graphs import DECODE_BUCKETS, fitting_buckets, greedy
from libra.engine.device import CpuDevice, Device
from libra.engine.device_executor import DeviceExecutor
from libra.engine.engine import Engine
from libra.engine.executor import StepBatch
from libra.engine.sequence import NO_TOKEN, SamplingParams
from libra.errors import LibraError
from libra.kernels.backend import make_backend
from libra.model.adapter_store import AdapterStore
from libra.model.llama import load_model
from libra.model.tiny import MIXED_TARGETS, TinyAdapters, make_tiny
from libra.request import Request
from tests.libra.engine.torch_driver import Driver
from tests.tiny_models import SPEC, TinyModel

pytest.importorskip("triton", reason="Triton exists for Linux alone")
# Rows that are padding hold anything, and the interpreter's NumPy tells when they overflow.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
in_the_interpreter = pytest.mark.skipif(
    torch.cuda.is_available(), reason="kernels are compiled for the CUDA device in this process"
)
BLOCK_TOKENS = 19
NUM_TOKENS = 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Small enough for Triton's interpreter."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("device") / "model"
    spec = replace(SPEC, num_layers=2)
    paths = make_tiny(root, spec, TinyAdapters(2, (4, 24), MIXED_TARGETS), max_length=64)
    return TinyModel(root, spec, {path.name: path for path in paths})


def driver_of(tiny: TinyModel, backend: str, buckets: tuple[int, ...] | None) -> Driver:
    """Buckets None: the CPU engine's own executor."""
    driver = Driver.make(tiny, block_tokens=BLOCK_TOKENS)
    if buckets is not None:
        model = load_model(tiny.directory, prepack=False, backend=make_backend(backend))
        arguments = (model, driver.hbm, driver.store, BLOCK_TOKENS, WallClock(), CpuDevice())
        driver.executor = DeviceExecutor(*arguments, buckets=buckets)  # type: ignore[assignment]
    return driver


def outputs(driver: Driver, adapters: list[str], sampling: SamplingParams | None = None) -> list[list[int]]:
    """A mixed batch: prompts in chunks of 4 tokens while others decode, then decode steps alone, of 3, 2 and 1."""
    generator = np.random.default_rng(2)
    prompts = [generator.integers(1, driver.vocab_size, length).tolist() for length in (2, 6, 3)]
    users = [None, *adapters]
    sequences = [driver.sequence(p, NUM_TOKENS, user, sampling) for p, user in zip(prompts, users, strict=True)]
    return driver.run(sequences, chunk_tokens=4)


@pytest.fixture(scope="module")
def expected(tiny: TinyModel) -> list[list[int]]:
    return outputs(driver_of(tiny, "torch", None), list(tiny.adapters))


@in_the_interpreter
@pytest.mark.parametrize(("backend", "buckets"), [("torch", (4,)), ("triton", ()), ("triton", (1, 4))])
def test_tokens_are_those_of_the_cpu_engine(
    tiny: TinyModel, expected: list[list[int]], backend: str, buckets: tuple[int, ...]
) -> None:
    driver = driver_of(tiny, backend, buckets)
    assert outputs(driver, list(tiny.adapters)) == expected
    captured = 0 if backend == "torch" or not buckets else 1
    assert ("graphs" in driver.executor.describe()) == bool(captured)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("buckets", [(), (1, 4)])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_tokens_on_a_gpu_are_those_of_the_cpu_engine(
    tiny: TinyModel, expected: list[list[int]], backend: str, buckets: tuple[int, ...]
) -> None:
    device, driver = CudaDevice(), driver_of(tiny, "torch", None)
    model = load_model(tiny.directory, prepack=False, backend=make_backend(backend), device=device.place)
    arguments = (model, driver.hbm.to(device.place), driver.store, BLOCK_TOKENS, WallClock(), device)
    driver.executor = DeviceExecutor(*arguments, buckets=buckets)  # type: ignore[assignment]
    assert outputs(driver, list(tiny.adapters)) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_the_whole_engine_on_a_gpu_gives_the_tokens_of_the_cpu(tiny: TinyModel, backend: str) -> None:
    adapters = list(tiny.adapters)
    engine = engine_of(tiny, backend, max_num_seqs=2, device=CudaDevice())
    assert engine.executor.fallback is None
    assert answers(engine, adapters) == answers(engine_of(tiny, "torch", graphs=False), adapters)
    assert engine.manager.memory.counters.adapter_in_bytes > 0


@in_the_interpreter
def test_drawn_tokens_are_those_of_the_cpu_engine(tiny: TinyModel) -> None:
    """Temperature, forbidden tokens and logprobs need logits on the host."""
    adapters = list(tiny.adapters)
    sampling = SamplingParams(
        temperature=0.8, top_k=20, seed=3, stop_token_ids=frozenset({5}), min_tokens=2, logprobs=2
    )
    assert outputs(driver_of(tiny, "torch", ()), adapters, sampling) == outputs(
        driver_of(tiny, "torch", None), adapters, sampling
    )


@in_the_interpreter
def test_a_bucket_computes_what_the_step_computes_without_it(tiny: TinyModel) -> None:
    """Two sequences in slots for four: padding writes to no block and changes no logits."""
    logits, pools = [], []
    for buckets in ((), (4,)):
        driver = driver_of(tiny, "triton", buckets)
        sequences = [driver.sequence([3, 1, 4, 1], 3, user) for user in (None, list(tiny.adapters)[1])]
        for sequence in sequences:
            sequence.num_computed = 3
        executor = driver.executor
        assert isinstance(executor, DeviceExecutor)
        logits.append(executor.logits(StepBatch(sequences)))
        pools.append(driver.hbm.clone())
    assert torch.allclose(logits[0], logits[1], atol=1e-5)
    torch.testing.assert_close(pools[0], pools[1], atol=1e-5, rtol=1e-5)


def test_without_graphs_warm_up_meets_decode_steps_with_adapters(tiny: TinyModel) -> None:
    """One token to an adapter, and several: other kernels. Where graphs are captured, that compiles them."""
    for buckets, counts in (((), {1, 2}), ((4,), set())):
        executor = driver_of(tiny, "torch", buckets).executor
        assert isinstance(executor, DeviceExecutor)
        steps = [step for step in executor._warm_steps(8) if step.use is not None and not step.prefill]
        assert {len(step.decode) for step in steps} == counts


class _NoHostReads(TorchDispatchMode):
    """Fails on operations that take a value from the device to the host, or whose result's shape depends on one.
    ``seen``: how many operations it has let pass."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")
        name = func.overloadpacket.__name__
        assert name not in forbidden, f"{name} waits for the device"
        self.seen += 1
        return func(*args, **(kwargs or {}))


def test_a_step_reads_nothing_back_before_its_end(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_of(tiny, "torch", ())
    compute, watch = DeviceExecutor._compute, _NoHostReads()

    def watched(self: DeviceExecutor, step: object) -> object:
        with watch:
            return compute(self, step)  # type: ignore[arg-type]

    monkeypatch.setattr(DeviceExecutor, "_compute", watched)
    outputs(driver, list(tiny.adapters))
    assert watch.seen > 100  # of several steps of two layers each
    with watch, pytest.raises(AssertionError, match="waits for the device"):
        torch.ones(1).item()


NO_MEMORY_NO_SYNC = """
import numpy as np, torch
from unittest import mock
from triton.runtime.jit import JITFunction
from libra.engine.decode_graphs import greedy
from libra.engine.step_layout import StepLayout
from libra.kernels.backend import make_backend
from libra.model import random_model
from libra.model.attention import Span
from libra.model.backend import AdapterUse
from libra.model.llama import StepInputs
from libra.model.lora import Segment
from libra.model.packing import UnitLayout
from libra.model.paged_kv import PagedKV
from libra.model.tiny import TINY_SIZES
from libra.spec import AdapterSpec

spec, meta, launched = TINY_SIZES["tiny"], torch.device("meta"), []
random_model._Weights.__init__ = lambda self, dtype, device, seed: self.__dict__.update(_dtype=dtype, _device=device)
random_model._Weights.normal = lambda self, *shape: torch.empty(shape, dtype=self._dtype, device=meta)
model = random_model.random_model(spec, torch.float32, meta, make_backend("triton"))
kv = PagedKV(torch.empty(64, spec.block_elems(16), device=meta), spec, 16)
layout = UnitLayout.of(AdapterSpec("a", 8), spec, 16)
blocks = {"a": list(range(layout.num_blocks))}
launch = lambda kernel, *arguments, **options: launched.append(kernel.fn.__name__)
with mock.patch.object(JITFunction, "run", launch), torch.inference_mode():
    planner = model.backend.planner(kv, spec, {"a": layout})
    slots = planner.decode_slots(4, 512)
    for form in slots.forms():
        plan = slots.plan(form)
        inputs = StepInputs(slots.tokens, slots.positions, torch.arange(4, device=meta), plan.attention)
        greedy(model.forward(inputs, kv, plan.adapters))
    use = AdapterUse([Segment(0, 2, "a")], [Segment(0, 2, "a")], blocks)
    slots.fill(np.zeros(2, dtype=np.int32), [Span([1, 2], 20, 1), Span([3], 4, 1)], use)
    step = StepLayout.probe([Span([1], 4, 1)], [Span([0], 0, 9)], ("a", blocks["a"]))
    plan = planner.plan(step.decode, step.prefill, step.use)
    arrays = (torch.from_numpy(one).to(meta) for one in (step.tokens, step.positions, step.output_rows))
    greedy(model.forward(StepInputs(*arrays, plan.attention), kv, plan.adapters))
print(*sorted(set(launched)))
"""


def test_the_kernels_path_never_asks_the_device_for_a_value() -> None:
    """On tensors without memory any read of a value is an error; nothing is launched."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", NO_MEMORY_NO_SYNC], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kernels = "_attention _expand _norm _rotate _shrink _silu_mul"
    assert {f"{name}_kernel" for name in kernels.split()} <= set(done.stdout.split())


# ---- the engine around it ------------------------------------------------------------------------------------------


def engine_of(
    tiny: TinyModel, backend: str, *, max_num_seqs: int = 4, graphs: bool = True, device: Device | None = None
) -> Engine:
    """On a cache too small for all adapters and requests, so that everything is swapped. ``device`` None does at once
    what it is told."""
    device = device or CpuDevice()
    model = load_model(tiny.directory, prepack=False, backend=make_backend(backend), device=device.place)
    store = AdapterStore(model.spec, BLOCK_TOKENS, model.dtype)
    for path in find_adapters(tiny.directory / "adapters"):
        store.add(path)
    config = EngineConfig(block_tokens=BLOCK_TOKENS, max_num_batched_tokens=8, max_num_seqs=max_num_seqs)
    sizes = CacheSizes(max(spec.num_blocks(model.spec, BLOCK_TOKENS) for spec in store.values()) + 8, 60)
    return build_real_engine(FASTLIBRA, model, store, list(store), sizes, config, device=device, graphs=graphs)


def answers(engine: Engine, adapters: list[str]) -> list[list[int]]:
    generator = np.random.default_rng(4)
    users = [None, *adapters, *adapters]
    prompts = [tuple(generator.integers(1, 500, 4 + number).tolist()) for number in range(len(users))]
    sequences = [
        engine.submit(Request(number, 0.0, user, NUM_TOKENS, prompt_token_ids=prompt), SamplingParams())
        for number, (user, prompt) in enumerate(zip(users, prompts, strict=True))
    ]
    try:
        while engine.scheduler.has_work:
            engine.step()
    finally:
        engine.manager.memory.link.close()
    engine.manager.check()
    return [sequence.tokens[sequence.num_prompt_tokens :].tolist() for sequence in sequences]


@in_the_interpreter
def test_the_whole_engine_gives_the_same_tokens_on_either_backend(tiny: TinyModel) -> None:
    adapters = list(tiny.adapters)
    torch_engine = engine_of(tiny, "torch", graphs=False)
    assert torch_engine.executor.fallback is None
    triton_engine = engine_of(tiny, "triton", max_num_seqs=2)
    assert triton_engine.executor.fallback is None
    assert isinstance(triton_engine.executor, DeviceExecutor)
    assert len(triton_engine.executor._graphs) == 6, "buckets 1 and 2 in three forms each, before the first step"
    assert answers(triton_engine, adapters) == answers(torch_engine, adapters)
    assert triton_engine.manager.memory.counters.adapter_in_bytes > 0


@in_the_interpreter
def test_an_adapter_may_come_while_steps_are_captured(tiny: TinyModel) -> None:
    driver = driver_of(tiny, "triton", (1,))
    first, second = tiny.adapters
    for name in (first, second):
        driver.executor.remove_adapter(name)
    driver.executor.add_adapter(driver.store[first])
    driver.executor.add_adapter(driver.store[second])
    sequence = driver.sequence([7, 8], 2, second)
    plain = driver_of(tiny, "torch", ())
    assert driver.run([sequence], 4) == plain.run([plain.sequence([7, 8], 2, second)], 4)


# ---- faults --------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    def refuse(*arguments: object) -> None:
        raise triton.errors.TritonError("ptxas gave up\nwith a long log")

    monkeypatch.setattr("libra.kernels.backend.silu_mul", refuse)


@in_the_interpreter
@pytest.mark.usefixtures("broken_kernel")
def test_a_kernel_that_does_not_compile_makes_torch_compute_and_says_so(tiny: TinyModel) -> None:
    with pytest.warns(BackendFallback, match=r"ptxas gave up.*torch instead, which is slower"):
        engine = engine_of(tiny, "triton")
    assert engine.executor.fallback is not None
    assert "ptxas gave up" in engine.executor.fallback
    assert "\n" not in engine.executor.fallback
    assert "torch after its kernels failed to compile" in engine.executor.describe()
    adapters = list(tiny.adapters)
    assert answers(engine, adapters) == answers(engine_of(tiny, "torch"), adapters)


def test_other_faults_are_no_fallback(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no such thing as a kernel's fault")

    monkeypatch.setattr("libra.kernels.backend.silu_mul", fail)
    with pytest.raises(RuntimeError, match="no such thing"):
        engine_of(tiny, "triton")


def test_memory_that_does_not_suffice_names_the_settings_that_need_less(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise MemoryError("2 GiB free")

    with monkeypatch.context() as patch:
        patch.setattr(DeviceExecutor, "_compute", refuse)
        with pytest.raises(LibraError, match=r"--hbm-cache-gib.*--max-num-batched-tokens"):
            engine_of(tiny, "torch")
    for method, setting in (("zeros", "--cache-fraction"), ("host", "--host-cache-gib")):
        with monkeypatch.context() as patch:
            patch.setattr(CpuDevice, method, refuse)
            with pytest.raises(LibraError, match=rf"2 GiB free; lower.*{setting}") as caught:
                engine_of(tiny, "torch")
        assert "\n" not in str(caught.value)


def test_buckets_hold_every_batch_and_no_more() -> None:
    assert fitting_buckets(1) == (1,)
    assert fitting_buckets(20) == (1, 2, 4, 8, 16, 24)
    assert fitting_buckets(64)[-1] == 64
    assert fitting_buckets(10_000) == DECODE_BUCKETS


def test_logits_that_are_not_finite_give_no_token() -> None:
    logits = torch.tensor([[0.0, 2.0], [torch.nan, 1.0], [torch.inf, 1.0]])
    assert greedy(logits).tolist() == [1, NO_TOKEN, NO_TOKEN]
