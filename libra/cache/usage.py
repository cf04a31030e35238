"""How much each adapter is asked for, and how large batches are: the inputs of Eq. 3."""

from collections import deque

import numpy as np

from libra.cache.cost_model import low_lora


class DemandWindow:
    """Decayed request counts per adapter and the mean batch size of the last ``window_s`` (the paper's 5 s)."""

    def __init__(self, half_life_s: float, window_s: float = 5.0) -> None:
        self._decay_rate = float(np.log(2.0)) / half_life_s
        self._window_s = window_s
        # Each adapter that was asked for has a place in both columns: its count as of the last request, and when that
        # came. The base model's place is None's.
        self._places: dict[int | None, int] = {}
        self._counts = np.empty(0)
        self._last_s = np.empty(0)
        self._batches: deque[tuple[float, int]] = deque()
        self._batch_sum = 0

    def note_request(self, adapter_node: int | None, now_s: float) -> None:
        """Counts a request for an adapter, or (None) for the base model."""
        place = self._places.get(adapter_node)
        if place is None:
            self._places[adapter_node] = len(self._places)
            self._counts, self._last_s = np.append(self._counts, 1.0), np.append(self._last_s, now_s)
            return
        self._counts[place] = self._counts[place] * np.exp(-(now_s - self._last_s[place]) * self._decay_rate) + 1.0
        self._last_s[place] = now_s

    def forget(self, adapter_node: int) -> None:
        """Drops the count of an adapter that is no more."""
        place = self._places.pop(adapter_node, None)
        if place is None:
            return
        self._counts, self._last_s = np.delete(self._counts, place), np.delete(self._last_s, place)
        self._places = {node: number for number, node in enumerate(self._places)}

    def note_batch(self, now_s: float, num_running: int) -> None:
        """Records the batch size at a tick; forgets what is older than the window."""
        self._batches.append((now_s, num_running))
        self._batch_sum += num_running
        while self._batches[0][0] <= now_s - self._window_s:
            self._batch_sum -= self._batches.popleft()[1]

    def low_lora(self, now_s: float) -> float:
        """Eq. 3 at ``now_s``. Base model requests have a share, but need no adapter."""
        if not self._places or not self._batches:
            return 0.0
        weights = self._counts * np.exp(-(now_s - self._last_s) * self._decay_rate)
        total = float(weights.sum())
        if total == 0.0:
            return 0.0
        shares = weights / total
        if None in self._places:
            shares = np.delete(shares, self._places[None])
        return low_lora(shares, self._batch_sum / len(self._batches))
