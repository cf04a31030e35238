"""Decode steps by batch bucket: captured once, then replayed with other sequences in the same slots."""

from collections.abc import Hashable
from collections.abc import Sequence as Items
from typing import NamedTuple

import torch

from libra.engine.device import Device, Graph
from libra.engine.sequence import NO_TOKEN
from libra.engine.step_layout import StepLayout
from libra.model.backend import DecodeSlots, Planner
from libra.model.llama import LlamaModel, StepInputs
from libra.model.paged_kv import PagedKV

# A batch takes the smallest that holds it: few enough to capture in seconds, close enough that little is padding.
DECODE_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)


class Output(NamedTuple):
    """Of the rows that yield a token: ``logits`` [rows, vocabulary] float32, and ``best`` int64 [rows], the greedy
    token or NO_TOKEN. Valid until the next step."""

    logits: torch.Tensor
    best: torch.Tensor


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each row, int64 [rows]; NO_TOKEN where the largest value is not finite."""
    largest, best = logits.max(dim=-1)
    # A scalar of ``where`` would be copied to the device, which a capture cannot.
    return best.masked_fill(~largest.isfinite(), NO_TOKEN)


def fitting_buckets(max_num_seqs: int) -> tuple[int, ...]:
    """The buckets that batches of up to ``max_num_seqs`` sequences need."""
    num_smaller = sum(bucket < max_num_seqs for bucket in DECODE_BUCKETS)
    return DECODE_BUCKETS[: num_smaller + 1]


class DecodeGraphs:
    """The captured steps of one planner. Those of all buckets write the same output, so that memory is taken for the
    largest alone."""

    def __init__(
        self,
        model: LlamaModel,
        kv: PagedKV,
        planner: Planner,
        device: Device,
        buckets: Items[int],
    ) -> None:
        """No buckets, or a backend whose steps cannot be replayed: nothing is captured."""
        self._model = model
        self._kv = kv
        self._recorder = device.recorder()
        limit = model.config.max_length
        slots = {bucket: planner.decode_slots(bucket, limit) for bucket in sorted(buckets)}
        self._slots: dict[int, DecodeSlots] = {bucket: one for bucket, one in slots.items() if one is not None}
        self._graphs: dict[tuple[int, Hashable], Graph] = {}
        largest = max(self._slots, default=0)
        self._logits = device.zeros((largest, model.spec.vocab_size), torch.float32)
        self._best = device.zeros((largest,), torch.int64)
        self._rows = torch.arange(largest, device=device.place)

    def __len__(self) -> int:
        """How many steps are captured."""
        return len(self._graphs)

    def capture_all(self) -> None:
        """Captures every bucket and form, the largest first: the others find their memory in what it needed."""
        for bucket, slots in reversed(self._slots.items()):
            for form in slots.forms():
                self._graph(bucket, form)

    def run(self, step: StepLayout) -> Output | None:
        """Computes a step; None for one that no bucket holds. A form met for the first time is captured first."""
        count = len(step.decode)
        bucket = next((bucket for bucket in self._slots if bucket >= count), None)
        if step.prefill or bucket is None:
            return None
        # A capture computes the step as well, and the replay once more: KV is written over with the same.
        form = self._slots[bucket].fill(step.tokens, step.decode, step.use)
        self._graph(bucket, form).replay()
        return Output(self._logits[:count], self._best[:count])

    def _graph(self, bucket: int, form: Hashable) -> Graph:
        if (bucket, form) not in self._graphs:
            self._graphs[bucket, form] = self._recorder.capture(lambda: self._compute(bucket, form))
        return self._graphs[bucket, form]

    def _compute(self, bucket: int, form: Hashable) -> None:
        slots = self._slots[bucket]
        plan = slots.plan(form)
        inputs = StepInputs(slots.tokens, slots.positions, self._rows[:bucket], plan.attention)
        logits = self._model.forward(inputs, self._kv, plan.adapters)
        self._logits[:bucket].copy_(logits)
        self._best[:bucket].copy_(greedy(logits))
