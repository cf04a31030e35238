"""A batch as arrays: which tokens a step computes, where they stand, which of them yield a token."""

from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from libra.engine.executor import PrefillChunk, StepBatch
from libra.engine.sequence import Sequence
from libra.model.attention import Span
from libra.model.backend import AdapterUse
from libra.model.lora import Segment

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True)
class StepLayout:
    """A step's tokens are those of ``decode``, one each, then those of ``prefill``, in order.

    ``tokens``, ``positions`` int32 [tokens]; ``output_rows`` int32: the tokens whose logits are wanted, and
    ``yielding`` their sequences. ``use`` None: no token has an adapter.
    """

    decode: list[Span]
    prefill: list[Span]
    tokens: Int32s
    positions: Int32s
    output_rows: Int32s
    yielding: list[Sequence]
    use: AdapterUse | None

    @staticmethod
    def of(batch: StepBatch) -> "StepLayout":
        """Decoding sequences go by length, so that neighbours are alike; chunks by adapter, so that one adapter's
        tokens are together."""
        decode = sorted(batch.decode, key=lambda sequence: sequence.num_computed)
        chunks = sorted(batch.prefill, key=lambda chunk: chunk.sequence.adapter_id or "")
        sequences = [*decode, *(chunk.sequence for chunk in chunks)]
        counts = [1] * len(decode) + [chunk.num_tokens for chunk in chunks]
        spans = [Span(s.block_table, s.num_computed, n) for s, n in zip(sequences, counts, strict=True)]
        yields = [True] * len(decode) + [chunk.is_last for chunk in chunks]
        last_rows = np.cumsum(counts) - 1
        return StepLayout(
            decode=spans[: len(decode)],
            prefill=spans[len(decode) :],
            tokens=_joined([s.tokens[span.start : span.end] for s, span in zip(sequences, spans, strict=True)]),
            positions=_joined([np.arange(span.start, span.end) for span in spans]),
            output_rows=last_rows[yields].astype(np.int32),
            yielding=[sequence for sequence, does in zip(sequences, yields, strict=True) if does],
            use=adapter_use(decode, chunks),
        )

    @staticmethod
    def probe(decode: Items[Span], prefill: Items[Span], adapter: tuple[str, Items[int]] | None) -> "StepLayout":
        """A step of token 0 that nobody asked for, wholly with ``adapter`` (id, blocks): to warm up on."""
        counts = [span.num_tokens for span in (*decode, *prefill)]
        positions = _joined([np.arange(span.start, span.end) for span in (*decode, *prefill)])
        use = None
        if adapter is not None:
            name, blocks = adapter
            outputs = [Segment(row, row + 1, name) for row in range(len(counts))]
            use = AdapterUse([Segment(0, len(positions), name)], outputs, {name: blocks})
        rows = (np.cumsum(counts) - 1).astype(np.int32)
        return StepLayout([*decode], [*prefill], np.zeros_like(positions), positions, rows, [], use)

    @property
    def longest(self) -> int:
        """The longest context after the step, in tokens."""
        return max(span.end for span in (*self.decode, *self.prefill))


def _joined(arrays: "list[npt.NDArray[np.generic]]") -> Int32s:
    return np.concatenate(arrays).astype(np.int32)


def adapter_use(decode: list[Sequence], chunks: list[PrefillChunk]) -> AdapterUse | None:
    """The adapters of a step in this order, a segment for each decoding sequence and each run of chunks of one adapter;
    None where no token has one."""
    sequences = [*decode, *(chunk.sequence for chunk in chunks)]
    blocks = {s.adapter_id: s.adapter_blocks for s in sequences if s.adapter_id is not None}
    if not blocks:
        return None
    segments = [Segment(row, row + 1, sequence.adapter_id) for row, sequence in enumerate(decode)]
    last = [Segment(0, 1, chunk.sequence.adapter_id) for chunk in chunks if chunk.is_last]
    outputs = [Segment(row, row + 1, segment.adapter_id) for row, segment in enumerate((*segments, *last))]
    start = len(decode)
    for adapter_id, run in groupby(chunks, key=lambda chunk: chunk.sequence.adapter_id):
        end = start + sum(chunk.num_tokens for chunk in run)
        segments.append(Segment(start, end, adapter_id))
        start = end
    return AdapterUse(segments, outputs, blocks)
