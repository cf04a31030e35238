"""Computes steps on the CPU with torch: real weights, real KV in the HBM arena, any mixture of adapters."""

import ctypes
import platform
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from libra.clock import Clock
from libra.engine.executor import Executor, PrefillChunk, StepBatch, StepResult
from libra.engine.sequence import Sequence
from libra.errors import LibraError
from libra.model.attention import Span, plan_attention
from libra.model.llama import LlamaModel, StepInputs
from libra.model.lora import ActiveAdapters, GatheredAdapters, Segment
from libra.model.packing import UnitLayout, gather_units
from libra.model.paged_kv import PagedKV
from libra.model.sampler import Sampler
from libra.model.stitched import AdapterBank, Bags, StitchedAdapters
from libra.spec import AdapterSpec

_MIB = 1 << 20


class TorchExecutor(Executor):
    """One forward pass per step over ``hbm`` [num_blocks, block_elems], which it shares with the copier.

    ``stitch`` False is the plain twin: adapters are gathered from the pool in every step (see libra.model.stitched).
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
        seed: int = 0,
    ) -> None:
        self._model = model
        self._hbm = hbm
        self._clock = clock
        self._kv = PagedKV(hbm, model.spec, block_tokens)
        self._layouts = {name: UnitLayout.of(spec, model.spec, block_tokens) for name, spec in adapters.items()}
        self._bank = AdapterBank(model.spec, self._layouts, model.dtype) if stitch else None
        self._bags: tuple[object, Bags | None] = (None, None)
        self._sampler = Sampler(seed)
        self._prefill_fit = LineFit()
        keep_freed_memory()

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        """Computes one step, whatever ``max_steps``. Raises LibraError for a context beyond the model's limit."""
        started_s = self._clock.now()
        # Chunks of one adapter stand together, so that they are one product; results go back in the caller's order.
        order = sorted(range(len(batch.prefill)), key=lambda i: batch.prefill[i].sequence.adapter_id or "")
        chunks = [batch.prefill[i] for i in order]
        sampled = self._sample(batch.decode, chunks, self._forward(batch.decode, chunks))
        num_decode = len(batch.decode)
        by_chunk = dict(zip((i for i in order if batch.prefill[i].is_last), sampled[num_decode:], strict=True))
        ended_s = self._clock.now()
        if chunks:
            num_tokens = num_decode + sum(chunk.num_tokens for chunk in chunks)
            self._prefill_fit.add(num_tokens, ended_s - started_s)
        return StepResult([ended_s], [*sampled[:num_decode], *(by_chunk[i] for i in sorted(by_chunk))])

    def prefill_seconds(self, num_tokens: int) -> float:
        """From a line fitted to the steps measured so far; see ``warm_up``."""
        return self._prefill_fit.at(num_tokens)

    def describe(self) -> str:
        dtype = str(self._model.dtype).removeprefix("torch.")
        return f"measured on cpu ({processor_name()}, {torch.get_num_threads()} threads, {dtype})"

    def forget(self, adapter_id: str) -> None:
        """Tells that ``adapter_id`` left HBM, so that its stitched copy may go. Optional: generations tell as well."""
        if self._bank is not None:
            self._bank.forget(adapter_id)

    def warm_up(self, num_tokens: int = 256) -> None:
        """Computes prefills of several lengths and a decode step, so that the first measured steps are not the slow
        first ones and ``prefill_seconds`` has something to stand on. Overwrites the pool's first blocks: call it
        before the engine starts. Lengths are cut to what fits the pool and the model.
        """
        capacity = min(len(self._hbm) * self._kv.block_tokens, self._model.config.max_length)
        table = list(range(len(self._hbm)))
        for count in (num_tokens, num_tokens // 4, 1, num_tokens, num_tokens // 4, 1):
            span = Span(table, 0, max(1, min(count, capacity)))
            started = self._clock.now()
            self._compute([], [span], np.zeros(span.num_tokens, dtype=np.int64), np.array([0]), None)
            self._prefill_fit.add(span.num_tokens, self._clock.now() - started)

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
        return self._compute(
            decode_spans, chunk_spans, tokens.astype(np.int64), output_rows, self._adapters(decode, chunks)
        )

    def _compute(
        self,
        decode: list[Span],
        prefill: list[Span],
        tokens: np.typing.NDArray[np.int64],
        output_rows: np.typing.NDArray[np.int64],
        adapters: ActiveAdapters | None,
    ) -> torch.Tensor:
        spans = [*decode, *prefill]
        limit = self._model.config.max_length
        if max(span.end for span in spans) > limit:
            raise LibraError(f"a context beyond the {limit} tokens of {self._model.spec.name}; send shorter requests")
        positions = np.concatenate([np.arange(span.start, span.end) for span in spans])
        step = StepInputs(
            torch.from_numpy(tokens),
            torch.from_numpy(positions),
            torch.from_numpy(output_rows),
            plan_attention(self._kv, decode, prefill, self._model.dtype),
        )
        return self._model.forward(step, self._kv, adapters)

    def _adapters(self, decode: list[Sequence], chunks: list[PrefillChunk]) -> ActiveAdapters | None:
        sequences = [*decode, *(chunk.sequence for chunk in chunks)]
        used = {s.adapter_id: (s.adapter_generation, s.adapter_blocks) for s in sequences if s.adapter_id is not None}
        if not used:
            return None
        segments = _segments(chunks, start=len(decode))
        if self._bank is None:
            units = {
                name: gather_units(self._hbm, torch.tensor(blocks), self._layouts[name])
                for name, (_, blocks) in used.items()
            }
            each = [Segment(i, i + 1, sequence.adapter_id) for i, sequence in enumerate(decode)]
            return GatheredAdapters([*each, *segments], units, self._layouts)
        entries = self._bank.stitch(self._hbm, used)
        owners = [None if s.adapter_id is None else entries[s.adapter_id] for s in decode]
        # Decode batches stay the same for many steps, and with them the bags.
        key = (self._bank.capacity, [None if owner is None else (owner.start, owner.rank) for owner in owners])
        if self._bags[0] != key:
            self._bags = (key, Bags(owners, self._bank.capacity) if any(owners) else None)
        return StitchedAdapters(self._bank, entries, self._bags[1], len(decode), segments)

    def _sample(self, decode: list[Sequence], chunks: list[PrefillChunk], logits: torch.Tensor) -> list[int]:
        sequences = [*decode, *(chunk.sequence for chunk in chunks if chunk.is_last)]
        return self._sampler.sample(logits, [s.sampling for s in sequences], [s.num_tokens for s in sequences])


def _segments(chunks: list[PrefillChunk], start: int) -> list[Segment]:
    """One segment per run of chunks with the same adapter, the first token being the step's token ``start``."""
    segments = []
    for adapter_id, run in groupby(chunks, key=lambda chunk: chunk.sequence.adapter_id):
        end = start + sum(chunk.num_tokens for chunk in run)
        segments.append(Segment(start, end, adapter_id))
        start = end
    return segments


class LineFit:
    """Least-squares line through (x, y), older points fading by ``decay`` per point. Slope and offset are >= 0."""

    def __init__(self, decay: float = 0.98) -> None:
        self._decay = decay
        self._sums = np.zeros(5)  # of 1, x, y, x*x, x*y

    def add(self, x: float, y: float) -> None:
        self._sums = self._decay * self._sums + np.array([1.0, x, y, x * x, x * y])

    def at(self, x: float) -> float:
        """The line's value at ``x``; zero before the first point."""
        n, sum_x, sum_y, sum_xx, sum_xy = self._sums.tolist()
        if n == 0:
            return 0.0
        spread = n * sum_xx - sum_x * sum_x
        slope = (n * sum_xy - sum_x * sum_y) / spread if spread > 1e-9 * n * sum_xx else sum_y / sum_x
        slope = max(slope, 0.0)
        return float(max((sum_y - slope * sum_x) / n, 0.0) + slope * x)


def keep_freed_memory() -> None:
    """Asks glibc to keep freed memory for the next allocation instead of handing it back to the system.

    Activations of a prefill step are megabytes each, which glibc maps and unmaps on every use: the page faults cost
    more than the element-wise operations themselves (a float32 step of 256 tokens takes a quarter longer). Applies to
    the whole process; elsewhere than on glibc it does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 * _MIB)
        libc.mallopt(trim_threshold, 512 * _MIB)


def processor_name() -> str:
    """The CPU's name as its maker gives it, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
