"""Adapter ids of a generated workload, and the ranks they are given."""

from collections.abc import Mapping, Sequence

import numpy as np

from libra.errors import LibraError
from workloads.demand import check_num_adapters
from workloads.seeds import generator

DEFAULT_RANKS = "32,64"  # the paper's (HPCA version, section III-B)


def adapter_names(num_adapters: int) -> tuple[str, ...]:
    """``lora-00``, ``lora-01``, ... in order of popularity, padded so that they sort as text."""
    check_num_adapters(num_adapters)
    digits = max(2, len(str(num_adapters - 1)))
    return tuple(f"lora-{index:0{digits}d}" for index in range(num_adapters))


def assign_ranks(adapter_ids: Sequence[str], ranks: Sequence[int], seed: int) -> dict[str, int]:
    """A rank for every adapter: the ranks in turn over a seeded shuffle, so they are balanced and free of popularity.

    Raises LibraError when ``ranks`` is empty or holds a rank below 1.
    """
    _check_ranks(ranks)
    order = generator(seed, "ranks").permutation(len(adapter_ids))
    shuffled = {adapter_ids[place]: ranks[turn % len(ranks)] for turn, place in enumerate(np.asarray(order).tolist())}
    return {adapter_id: shuffled[adapter_id] for adapter_id in adapter_ids}


def parse_ranks(text: str) -> tuple[int, ...]:
    """The ranks of a list such as ``32,64``. Raises LibraError for anything else."""
    try:
        ranks = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise LibraError(f"--ranks is {text!r}; give whole numbers with commas between, such as 32,64") from None
    _check_ranks(ranks)
    return ranks


def _check_ranks(ranks: Sequence[int]) -> None:
    if not ranks or min(ranks) < 1:
        raise LibraError(f"--ranks is {','.join(map(str, ranks)) or 'empty'}; give ranks of 1 or more, such as 32,64")


def complete_ranks(adapters: Mapping[str, int | None], ranks: Sequence[int], seed: int) -> dict[str, int]:
    """Every adapter of a trace's header with its rank: the header's where it has one, else one of ``ranks``."""
    assigned = assign_ranks(list(adapters), ranks, seed)
    return {name: assigned[name] if known is None else known for name, known in adapters.items()}
