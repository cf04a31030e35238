"""Indices of a step in one buffer."""

import numpy as np
import pytest
import torch

from libra.kernels.step_buffer import StepBuffer
from tests.libra.kernels.conftest import DEVICE

FIRST, SECOND = np.arange(6, dtype=np.int32), np.arange(100, 112, dtype=np.int32).reshape(3, 4)


def test_arrays_arrive_whole_and_aligned() -> None:
    buffer = StepBuffer(torch.device(DEVICE), capacity=1)
    for repeat in range(2):
        views = buffer.put([FIRST + repeat, SECOND, FIRST[:0]])
        assert [view.tolist() for view in views] == [(FIRST + repeat).tolist(), SECOND.tolist(), []]
        assert all(view.data_ptr() % 16 == 0 and view.is_contiguous() for view in views)


def test_reserved_lengths_fix_places_and_pad_with_zeros() -> None:
    buffer = StepBuffer(torch.device(DEVICE))
    full = buffer.put([FIRST, SECOND], lengths=[9, 5])
    places = [view.data_ptr() for view in full]
    assert full[0].tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 0]
    part = buffer.put([FIRST[:2], SECOND[:1]], lengths=[9, 5])
    assert [view.data_ptr() for view in part] == places
    assert part[0].tolist() == [0, 1] + 7 * [0]
    assert part[1].tolist() == [[100, 101, 102, 103], *4 * [[0, 0, 0, 0]]]
    with pytest.raises(ValueError, match="6 rows where 5 are reserved"):
        buffer.put([FIRST], lengths=[5])
