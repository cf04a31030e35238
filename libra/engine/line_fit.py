"""A line through measured points that follows drift."""

import numpy as np


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
