"""Computes steps on the CPU with torch: real weights, real KV in the HBM arena, any mixture of adapters."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from libra.clock import Clock
from libra.engine.executor import Executor, PrefillChunk, Rest, StepBatch, StepResult
from libra.engine.line_fit import LineFit
from libra.engine.machine import compiling, processor_name
from libra.engine.sequence import Sequence
from libra.engine.step_layout import adapter_use
from libra.engine.step_thread import StepThread
from libra.errors import LibraError
from libra.model.attention import Span
from libra.model.backend import AdapterUse
from libra.model.bank import AdapterBank, Place
from libra.model.linear import can_prepack, padded_rows
from libra.model.llama import LlamaModel, StepInputs
from libra.model.lora import ActiveAdapters, GatheredAdapters, module_groups
from libra.model.packing import UnitLayout, gather_units
from libra.model.paged_kv import PagedKV
from libra.model.sampler import Draw, Sampler
from libra.model.stitched import Bag, StitchedAdapters, bags_for
from libra.spec import AdapterSpec

T = TypeVar("T")
Rows = np.typing.NDArray[np.int64]

# What compiling products ahead may take when an engine starts, and up to how many rows: prompts rarely have more.
_WARM_UP_S = 3.0
_COMPILED_ROWS = 512
# Batches whose bags are kept, a few hundred kilobytes each.
_REMEMBERED_BAGS = 16


class TorchExecutor(Executor):
    """One forward pass per step over ``hbm`` [num_blocks, block_elems], which it shares with the copier.

    ``stitch`` False is the plain twin: adapters are gathered from the pool in every step (see libra.model.stitched).
    ``beside``: it computes in a thread of its own, so that ``while_busy`` is called.
    """

    def __init__(
        self,
        model: LlamaModel,
        hbm: torch.Tensor,
        adapters: Mapping[str, AdapterSpec],
        block_tokens: int,
        clock: Clock,
        *,
        stitch: bool = True,
        beside: bool = False,
        seed: int = 0,
    ) -> None:
        self._model = model
        self._hbm = hbm
        self._clock = clock
        self._kv = PagedKV(hbm, model.spec, block_tokens)
        self._layouts = {name: UnitLayout.of(spec, model.spec, block_tokens) for name, spec in adapters.items()}
        self._planner = model.backend.planner(self._kv, model.spec, self._layouts)
        stitch = stitch and not self._planner.reads_adapters
        self._bank = AdapterBank(model.spec, self._layouts, model.dtype) if stitch else None
        self._pads = hbm.device.type == "cpu" and not self._planner.reads_adapters and can_prepack(model.dtype)
        self._bags: dict[tuple[Place | None, ...], list[Bag | None]] = {}
        self._sampler = Sampler(seed)
        self._prefill_fit = LineFit()
        self._thread = StepThread(clock) if beside else None

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        """Computes one step, whatever ``max_steps``. Raises LibraError for a context beyond the model's limit."""
        started_s = self._clock.now()
        # Decoding sequences of similar length are one attention, chunks of one adapter one product.
        decode = sorted(batch.decode, key=lambda sequence: sequence.num_computed)
        chunks = sorted(batch.prefill, key=lambda chunk: chunk.sequence.adapter_id or "")
        yielding = [*decode, *(chunk.sequence for chunk in chunks if chunk.is_last)]
        draws = self._run(partial(self._draw, decode, chunks, yielding), self.while_busy)
        sampled = dict(zip(yielding, draws, strict=True))
        ended_s = self._clock.now()
        if chunks:
            num_tokens = len(decode) + sum(chunk.num_tokens for chunk in chunks)
            self._prefill_fit.add(num_tokens, ended_s - started_s)
        callers_order = [*batch.decode, *(chunk.sequence for chunk in batch.prefill if chunk.is_last)]
        drawn = [sampled[sequence] for sequence in callers_order]
        asked = any(sequence.sampling.logprobs is not None for sequence in yielding)
        return StepResult([ended_s], [one.token for one in drawn], [one.logprobs for one in drawn] if asked else ())

    def _run(self, work: Callable[[], T], while_busy: Callable[[Rest], None] | None = None) -> T:
        return work() if self._thread is None else self._thread.run(work, while_busy)

    def _draw(self, decode: list[Sequence], chunks: list[PrefillChunk], yielding: list[Sequence]) -> list[Draw]:
        return self._sampler.sample(self._forward(decode, chunks), yielding)

    def prefill_seconds(self, num_tokens: int) -> float:
        """From a line fitted to the steps measured so far; see ``warm_up``."""
        return self._prefill_fit.at(num_tokens)

    def describe(self) -> str:
        dtype = str(self._model.dtype).removeprefix("torch.")
        backend = "" if self._model.backend.name == "torch" else f", {self._model.backend.name} kernels interpreted"
        return f"measured on cpu ({processor_name()}, {torch.get_num_threads()} threads, {dtype}{backend})"

    def add_adapter(self, spec: AdapterSpec) -> None:
        self._layouts[spec.adapter_id] = UnitLayout.of(spec, self._model.spec, self._kv.block_tokens)
        self._planner = self._model.backend.planner(self._kv, self._model.spec, self._layouts)

    def remove_adapter(self, adapter_id: str) -> None:
        """The planner may keep what it knows: nobody asks for it any more, and ``add_adapter`` makes a new one."""
        del self._layouts[adapter_id]
        self.forget(adapter_id)

    def forget(self, adapter_id: str) -> None:
        """Tells that ``adapter_id`` left HBM, so that its stitched copy may go. Optional: generations tell as well."""
        if self._bank is not None:
            self._bank.forget(adapter_id)
            self._bags.clear()

    def warm_up(self, num_tokens: int = 256) -> None:
        """Computes prompts of several lengths, so that the first steps that count are not the slow first ones and
        ``prefill_seconds`` has something to stand on. Overwrites the pool's first blocks: call it before the engine
        starts. Lengths are cut to what fits the pool and the model.
        """
        self._run(partial(self._warm_up, num_tokens))

    def _warm_up(self, num_tokens: int) -> None:
        if self._pads:
            self._compile_products()
        for is_warm in (False, True):
            for count in (num_tokens, num_tokens // 4, 1):
                num_computed, seconds = self._time_prompt(count)
                if is_warm:
                    self._prefill_fit.add(num_computed, seconds)

    def _compile_products(self) -> None:
        """As far as the time allows. What is compiled later costs the step that needs it first, and half a megabyte of
        the heap each, so that a server would grow as long as it meets new sizes of steps."""
        begun_s = self._clock.now()
        with compiling():
            for count in sorted({padded_rows(count) for count in range(1, _COMPILED_ROWS + 1)}):
                if self._clock.now() - begun_s < _WARM_UP_S:
                    self._model.multiply_each(count)

    def _time_prompt(self, num_tokens: int) -> tuple[int, float]:
        """Computes a prompt in the pool's first blocks: how many tokens fit pool and model, and the seconds."""
        capacity = min(len(self._hbm) * self._kv.block_tokens, self._model.config.max_length)
        span = Span(list(range(len(self._hbm))), 0, max(1, min(num_tokens, capacity)))
        started_s = self._clock.now()
        self._compute([], [span], np.zeros(span.num_tokens, dtype=np.int64), np.array([0]))
        return span.num_tokens, self._clock.now() - started_s

    def _forward(self, decode: list[Sequence], chunks: list[PrefillChunk]) -> torch.Tensor:
        """Logits of the tokens to sample from: every decode sequence, then every last chunk."""
        decode_spans = [Span(s.block_table, s.num_computed, 1) for s in decode]
        chunk_spans = [Span(c.sequence.block_table, c.sequence.num_computed, c.num_tokens) for c in chunks]
        sequences = [*decode, *(chunk.sequence for chunk in chunks)]
        pairs = zip(sequences, (*decode_spans, *chunk_spans), strict=True)
        tokens = np.concatenate([sequence.tokens[span.start : span.end] for sequence, span in pairs])
        ends = np.cumsum([span.num_tokens for span in (*decode_spans, *chunk_spans)])
        last = [len(decode) + i for i, chunk in enumerate(chunks) if chunk.is_last]
        output_rows = ends[[*range(len(decode)), *last]] - 1
        use = adapter_use(decode, chunks)
        own = None if use is None or self._planner.reads_adapters else self._adapters(use, decode, chunks)
        return self._compute(decode_spans, chunk_spans, tokens.astype(np.int64), output_rows, use, own)

    def _compute(
        self,
        decode: list[Span],
        prefill: list[Span],
        tokens: Rows,
        output_rows: Rows,
        use: AdapterUse | None = None,
        adapters: ActiveAdapters | None = None,
    ) -> torch.Tensor:
        """``adapters`` are those of ``use``, in a form made here unless the planner reads them itself."""
        spans = [*decode, *prefill]
        limit = self._model.config.max_length
        if max(span.end for span in spans) > limit:
            raise LibraError(f"a context beyond the {limit} tokens of {self._model.spec.name}; send shorter requests")
        positions = np.concatenate([np.arange(span.start, span.end) for span in spans])
        computed_rows = output_rows
        if self._pads:
            padding = np.zeros(padded_rows(len(tokens)) - len(tokens), dtype=np.int64)
            tokens, positions = np.concatenate((tokens, padding)), np.concatenate((positions, padding))
            computed_rows = _padded_outputs(output_rows, len(tokens))
        plan = self._planner.plan(decode, prefill, use)
        step = StepInputs(
            torch.from_numpy(tokens), torch.from_numpy(positions), torch.from_numpy(computed_rows), plan.attention
        )
        logits = self._model.forward(step, self._kv, adapters or plan.adapters)
        if np.array_equal(computed_rows[: len(output_rows)], output_rows):
            return logits[: len(output_rows)]
        return logits.index_select(0, torch.from_numpy(output_rows))

    def _adapters(self, use: AdapterUse, decode: list[Sequence], chunks: list[PrefillChunk]) -> ActiveAdapters:
        """The adapters of ``use``, stitched or gathered."""
        if self._bank is None:
            units = {
                name: gather_units(self._hbm, torch.tensor(blocks), self._layouts[name])
                for name, blocks in use.blocks.items()
            }
            return GatheredAdapters(module_groups(self._model.spec), use.segments, units, self._layouts, use.outputs)
        sequences = [*decode, *(chunk.sequence for chunk in chunks)]
        used = {s.adapter_id: (s.adapter_generation, s.adapter_blocks) for s in sequences if s.adapter_id is not None}
        entries = self._bank.stitch(self._hbm, used)
        places = [None if s.adapter_id is None else entries[s.adapter_id].place for s in use.outputs]
        outputs = StitchedAdapters(self._bank, self._bags_at(self._bank, places), len(places))
        if not chunks:
            return outputs
        bags = self._bags_at(self._bank, places[: len(decode)])
        return StitchedAdapters(self._bank, bags, len(decode), use.segments[len(decode) :], entries, outputs)

    def _bags_at(self, bank: AdapterBank, places: list[Place | None]) -> list[Bag | None]:
        """``bags_for``, remembered: a decode batch stays the same for many steps."""
        key = tuple(places)
        if key not in self._bags:
            if len(self._bags) >= _REMEMBERED_BAGS:
                self._bags.clear()
            self._bags[key] = bags_for(bank.groups, places)
        return self._bags[key]


def _padded_outputs(output_rows: Rows, num_tokens: int) -> Rows:
    """``output_rows`` of a step of ``num_tokens``, the last one repeated up to ``padded_rows``; all rows where that
    makes as many as there are tokens."""
    num_rows = padded_rows(len(output_rows))
    if num_rows >= num_tokens:
        return np.arange(num_tokens)
    return np.pad(output_rows, (0, num_rows - len(output_rows)), mode="edge")
