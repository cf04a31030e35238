"""How much each adapter is asked for, and how large batches are: the inputs of Eq. 3."""

from collections import deque

import numpy as np

from libra.cache.cost_model import low_lora


class DemandWindow:
    """Decayed request counts per adapter and the mean batch size of the last ``window_s`` (the paper's 5 s)."""

    def __init__(self, half_life_s: float, window_s: float = 5.0) -> None:
        self._decay_rate = float(np.log(2.0)) / half_life_s
        self._window_s = window_s
        # Of each adapter that was asked for: the count as of the last request, and when that came.
        self._counts: dict[int | None, float] = {}
        self._last_s: dict[int | None, float] = {}
        self._batches: deque[tuple[float, int]] = deque()
        self._batch_sum = 0

    def note_request(self, adapter_node: int | None, now_s: float) -> None:
        """Counts a request for an adapter, or (None) for the base model."""
        count, last_s = self._counts.get(adapter_node, 0.0), self._last_s.get(adapter_node, now_s)
        self._counts[adapter_node] = count * float(np.exp(-(now_s - last_s) * self._decay_rate)) + 1.0
        self._last_s[adapter_node] = now_s

    def forget(self, adapter_node: int) -> None:
        """Drops the count of an adapter that is no more."""
        self._counts.pop(adapter_node, None)
        self._last_s.pop(adapter_node, None)

    def note_batch(self, now_s: float, num_running: int) -> None:
        """Records the batch size at a tick; forgets what is older than the window."""
        self._batches.append((now_s, num_running))
        self._batch_sum += num_running
        while self._batches[0][0] <= now_s - self._window_s:
            self._batch_sum -= self._batches.popleft()[1]

    def low_lora(self, now_s: float) -> float:
        """Eq. 3 at ``now_s``. Base model requests have a share, but need no adapter."""
        if not self._counts or not self._batches:
            return 0.0
        counts = np.fromiter(self._counts.values(), np.float64, len(self._counts))
        ages = now_s - np.fromiter(self._last_s.values(), np.float64, len(self._last_s))
        weights = counts * np.exp(-ages * self._decay_rate)
        total = float(weights.sum())
        if total == 0.0:
            return 0.0
        shares = weights[[node is not None for node in self._counts]] / total
        return low_lora(shares, self._batch_sum / len(self._batches))
