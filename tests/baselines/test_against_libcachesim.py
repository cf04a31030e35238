"""Misses on adapter-only traces against libCacheSim's own implementations (pip install libcachesim)."""

import pytest

from baselines import POLICIES
from tests.baselines.adapter_trace import count_misses, zipf_trace

libcachesim = pytest.importorskip("libcachesim", reason="libcachesim is not installed")

# name -> (their class, how far misses may lie above theirs, and below). LFU and GDSF here remember the counts of what
# has left, which theirs forget: they may miss less, not more.
PEERS = {
    "lru": ("LRU", 0.0, 0.0),
    "arc": ("ARC", 0.02, 0.02),
    "s3fifo": ("S3FIFO", 0.04, 0.04),
    "gdsf": ("GDSF", 0.01, 0.15),
    "lfu": ("LFU", 0.01, 0.30),
}


@pytest.mark.parametrize("capacity", [20, 30, 50])
@pytest.mark.parametrize("name", PEERS)
def test_misses_are_those_of_the_published_implementation(name: str, capacity: int) -> None:
    class_name, above, below = PEERS[name]
    trace = zipf_trace(1200, 100, 0.9, seed=capacity)
    cache = getattr(libcachesim, class_name)(capacity)
    theirs = 0
    for adapter in trace.tolist():
        wanted = libcachesim.Request()
        wanted.obj_id, wanted.obj_size = adapter + 1, 1
        theirs += not cache.get(wanted)
    ours = count_misses(POLICIES[name], trace, capacity)
    assert theirs * (1 - below) <= ours <= theirs * (1 + above)
