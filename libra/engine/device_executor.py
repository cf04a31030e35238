"""Computes steps on a device: real weights, real KV in the HBM arena, any mixture of adapters.

The host gives a step to the device whole and waits for it once, at its end, where it reads the sampled tokens. That is
also what lets it read and move blocks between steps (libra.engine.cuda_device).
"""

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items

import numpy as np
import torch

from libra.clock import Clock
from libra.engine.decode_graphs import DECODE_BUCKETS, DecodeGraphs, Output, greedy
from libra.engine.device import Device, Mark
from libra.engine.executor import Executor, StepBatch, StepResult
from libra.engine.line_fit import LineFit
from libra.engine.sequence import Sequence
from libra.engine.step_layout import StepLayout
from libra.engine.step_thread import StepThread
from libra.errors import LibraError
from libra.kernels.attention import MAX_SPLITS, MIN_SPLIT_TOKENS
from libra.model.attention import Span
from libra.model.backend import AdapterUse
from libra.model.llama import LlamaModel, StepInputs
from libra.model.lora import ActiveAdapters, GatheredAdapters, module_groups
from libra.model.packing import UnitLayout, gather_units
from libra.model.paged_kv import PagedKV
from libra.model.sampler import Draw, Sampler, forbidden_tokens
from libra.spec import AdapterSpec

# Prompt lengths to warm up with: every shape that attention and adapters take for a chunk, which is a power of two of
# rows up to 128 for attention, whatever the query heads per key-value head.
_WARM_CHUNKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)


class DeviceExecutor(Executor):
    """One forward pass per step over ``hbm`` [num_blocks, block_elems], which it shares with the copier. Decode steps
    of the ``buckets`` are captured by ``warm_up`` and replayed; none captures nothing."""

    def __init__(
        self,
        model: LlamaModel,
        hbm: torch.Tensor,
        adapters: Mapping[str, AdapterSpec],
        block_tokens: int,
        clock: Clock,
        device: Device,
        *,
        buckets: Items[int] = DECODE_BUCKETS,
        fallback: str | None = None,
        beside: bool = False,
        seed: int = 0,
    ) -> None:
        """``fallback``: why ``model`` computes on another backend than was asked for. ``beside``: another thread waits
        for the device, so that ``while_busy`` is called.

        Raises LibraError when the backend cannot run on this device, pool or model.
        """
        self._model = model
        self._hbm = hbm
        self._clock = clock
        self._device = device
        self._buckets = tuple(buckets)
        self._fallback = fallback
        self._kv = PagedKV(hbm, model.spec, block_tokens)
        self._layouts = {name: UnitLayout.of(spec, model.spec, block_tokens) for name, spec in adapters.items()}
        self._sampler = Sampler(seed)
        self._prefill_fit = LineFit()
        self._thread = StepThread(clock) if beside else None
        self._plan_anew()

    @property
    def fallback(self) -> str | None:
        return self._fallback

    def _plan_anew(self) -> None:
        """Plans for the adapters there are now. What was captured for others is dropped."""
        self._planner = self._model.backend.planner(self._kv, self._model.spec, self._layouts)
        self._graphs = DecodeGraphs(self._model, self._kv, self._planner, self._device, self._buckets)

    # ---- steps -----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        """Computes one step, whatever ``max_steps``. Raises LibraError for a context beyond the model's limit."""
        started_s = self._clock.now()
        step = StepLayout.of(batch)
        limit = self._model.config.max_length
        if step.longest > limit:
            raise LibraError(f"a context beyond the {limit} tokens of {self._model.spec.name}; send shorter requests")
        draws = self._read(self._compute(step), step.yielding)
        ended_s = self._clock.now()
        if batch.prefill:
            self._prefill_fit.add(len(step.tokens), ended_s - started_s)
        drawn = dict(zip(step.yielding, draws, strict=True))
        callers_order = [*batch.decode, *(chunk.sequence for chunk in batch.prefill if chunk.is_last)]
        ordered = [drawn[sequence] for sequence in callers_order]
        asked = any(one.logprobs is not None for one in ordered)
        return StepResult([ended_s], [one.token for one in ordered], [one.logprobs for one in ordered] if asked else ())

    @torch.inference_mode()
    def logits(self, batch: StepBatch) -> torch.Tensor:
        """A copy of the logits of a step's tokens, [rows, vocabulary] in the order the step computes them: to check one
        executor by another. Mutates HBM as the step does."""
        logits = self._compute(StepLayout.of(batch)).logits.clone()
        self._device.mark().wait()
        return logits

    def _compute(self, step: StepLayout) -> Output:
        """Issues a step: a captured one where there is one, else kernel by kernel."""
        output = self._graphs.run(step)
        if output is not None:
            return output
        plan = self._planner.plan(step.decode, step.prefill, step.use)
        arrays = (step.tokens, step.positions, step.output_rows)
        uploaded = self._device.upload(np.concatenate(arrays))
        tokens, positions, rows = torch.split(uploaded, [len(one) for one in arrays])
        adapters = plan.adapters
        if step.use is not None and not self._planner.reads_adapters:
            adapters = self._gathered(step.use)
        logits = self._model.forward(StepInputs(tokens, positions, rows, plan.attention), self._kv, adapters)
        return Output(logits, greedy(logits))

    def _gathered(self, use: AdapterUse) -> ActiveAdapters:
        """The plain form, for a backend that does not read the pool."""
        blocks = {name: self._device.upload(np.asarray(blocks)) for name, blocks in use.blocks.items()}
        units = {name: gather_units(self._hbm, one, self._layouts[name]) for name, one in blocks.items()}
        return GatheredAdapters(module_groups(self._model.spec), use.segments, units, self._layouts, use.outputs)

    def _read(self, output: Output, sequences: list[Sequence]) -> list[Draw]:
        """Waits for the step and draws a token for each sequence. Logits leave the device for those alone that want
        more than the greedy token."""
        best = self._device.host((len(sequences),), torch.int64)
        best.copy_(output.best, non_blocking=True)
        rows = [row for row, sequence in enumerate(sequences) if _wants_logits(sequence)]
        logits = None
        if rows:
            wanted = output.logits.index_select(0, self._device.upload(np.array(rows)))
            logits = self._device.host(tuple(wanted.shape), wanted.dtype)
            logits.copy_(wanted, non_blocking=True)
        self._await(self._device.mark())
        draws = [Draw(token, None) for token in best.tolist()]
        if logits is not None:
            for row, draw in zip(rows, self._sampler.sample(logits, [sequences[row] for row in rows]), strict=True):
                draws[row] = draw
        return draws

    def _await(self, end: Mark) -> None:
        """Waits for a step's end."""
        if self._thread is None or self.while_busy is None:
            end.wait()
        else:
            self._thread.run(end.wait, self.while_busy)

    # ---- before and between steps ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def warm_up(self, max_tokens: int) -> None:
        """Computes chunks of up to ``max_tokens`` tokens and mixed steps in every shape that kernels are compiled for,
        and captures the decode steps, so that no step that counts has to wait for a compiler.

        Overwrites the pool's first block and reads nothing else: call it before the engine starts.
        """
        steps = list(self._warm_steps(max_tokens))
        for step in steps:
            self._compute(step)
        self._device.mark().wait()
        self._graphs.capture_all()
        for step in steps:
            started_s = self._clock.now()
            self._compute(step)
            self._device.mark().wait()
            if not step.decode:
                self._prefill_fit.add(len(step.tokens), self._clock.now() - started_s)

    def _warm_steps(self, max_tokens: int) -> Iterator[StepLayout]:
        largest = max(self._layouts, key=lambda name: self._layouts[name].spec.rank, default=None)
        adapter = None if largest is None else (largest, [0] * self._layouts[largest].num_blocks)
        limit = self._model.config.max_length
        lengths = {min(length, max_tokens, limit) for length in (*_WARM_CHUNKS, max_tokens)}
        for length in sorted(lengths):
            yield StepLayout.probe([], [self._nowhere(0, length)], None)
            yield StepLayout.probe([], [self._nowhere(0, length)], adapter)
        # As many splits of the context as there can be, in powers of two.
        context = MIN_SPLIT_TOKENS
        while context <= min(limit, MIN_SPLIT_TOKENS * MAX_SPLITS):
            yield StepLayout.probe([self._nowhere(context - 1, 1)], [self._nowhere(0, 2)], adapter)
            context *= 2
        if adapter is not None and not self._buckets:
            # Captures meet these kernels by themselves: one token to an adapter, and several.
            for count in (1, 2):
                yield StepLayout.probe([self._nowhere(0, 1)] * count, [], adapter)

    def _nowhere(self, start: int, num_tokens: int) -> Span:
        """A span of which every block is the pool's first."""
        return Span([0] * -(-(start + num_tokens) // self._kv.block_tokens), start, num_tokens)

    def prefill_seconds(self, num_tokens: int) -> float:
        """From a line fitted to the steps measured so far; see ``warm_up``."""
        return self._prefill_fit.at(num_tokens)

    def add_adapter(self, spec: AdapterSpec) -> None:
        """The steps captured so far hold for adapters no larger than those they knew; they are captured anew as they
        are met."""
        self._layouts[spec.adapter_id] = UnitLayout.of(spec, self._model.spec, self._kv.block_tokens)
        self._plan_anew()

    def remove_adapter(self, adapter_id: str) -> None:
        """The planner may keep what it knows: nobody asks for it any more, and ``add_adapter`` makes a new one."""
        del self._layouts[adapter_id]

    def describe(self) -> str:
        dtype = str(self._model.dtype).removeprefix("torch.")
        graphs = ", decode graphs" if len(self._graphs) else ""
        fallback = "" if self._fallback is None else " after its kernels failed to compile"
        return f"measured on {self._device.describe()} ({dtype}, {self._model.backend.name}{fallback}{graphs})"


def _wants_logits(sequence: Sequence) -> bool:
    params = sequence.sampling
    return params.temperature > 0 or params.logprobs is not None or bool(forbidden_tokens(sequence))
