"""When the sessions of a text data set start, and which dialog each of them is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from libra.errors import LibraError
from workloads.arrivals import Arrivals, FloatArray, IntArray
from workloads.demand import Demand
from workloads.dialogs import Corpus
from workloads.formats import ReadOptions
from workloads.processes import parse_arrivals
from workloads.seeds import generator


@dataclass(frozen=True)
class Starts:
    """One entry a session, by time: ``dialogs`` are places in the corpus.

    ``source`` is the provenance of the arrivals. ``window_s`` is None where the source records the times.
    ``parameters`` and ``warnings`` go to the trace's header.
    """

    times: FloatArray
    dialogs: IntArray
    source: str
    window_s: float | None
    parameters: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


def start_sessions(corpus: Corpus, options: ReadOptions, counts: Counter[str]) -> Starts:
    """Starts as the source records them, or drawn where it does not or the options name a process. Adds to ``counts``.

    Raises LibraError.
    """
    recorded = [start for start in corpus.starts if start is not None]
    if not recorded or options.arrivals is not None:
        return _drawn(corpus, options, counts)
    if len(recorded) != len(corpus.starts):
        raise LibraError("some of the dialogs have a recorded time and some have none; convert them apart")
    times = np.array(recorded)
    order = np.argsort(times, kind="stable").astype(np.int64)
    return Starts(times[order] - times[order[0]], order, "mapped", None, {})


def _drawn(corpus: Corpus, options: ReadOptions, counts: Counter[str]) -> Starts:
    """Every dialog once, in a drawn order, at the times of the process.

    Where the process says which adapter is asked when, the key of as many dialogs stands for it: that key's dialogs
    are then taken in turn, some of them more often than others.
    """
    num_dialogs, request_rate = len(corpus.keys), options.request_rate or Demand.request_rate
    ranked = [key for key, _ in Counter(corpus.keys).most_common()]
    rate = request_rate * num_dialogs / corpus.num_turns
    window_s = num_dialogs / rate
    process = parse_arrivals(options.drawn_arrivals, options.burstiness)
    end_s = window_s
    while True:
        arrivals = process.sample(generator(options.seed, "arrivals"), rate, 0.0, end_s, len(ranked))
        if arrivals.adapters is not None or len(arrivals.times) > num_dialogs:
            break
        end_s *= 1.25
    times = arrivals.times
    if arrivals.adapters is None:  # as many as there are dialogs, and the next one at the window's end
        times = times[:num_dialogs] * (window_s / times[num_dialogs])
    dialogs = generator(options.seed, "dialogs").permutation(num_dialogs).astype(np.int64)
    chosen = _chosen(arrivals, times, dialogs, corpus.keys, ranked)
    return Starts(
        times,
        dialogs if chosen is None else _dealt(dialogs, corpus.keys, ranked, chosen, counts),
        "mapped" if process.source == "mapped" else "drawn",
        window_s,
        {"arrivals": options.drawn_arrivals.partition(":")[0], "request_rate": request_rate, **arrivals.parameters},
        arrivals.warnings,
    )


def _chosen(
    arrivals: Arrivals, times: FloatArray, dialogs: IntArray, keys: Sequence[str], ranked: Sequence[str]
) -> IntArray | None:
    """The rank of the key that each start asks for, where the process says so."""
    if arrivals.ranking is None:
        return arrivals.adapters
    rank_of = {key: rank for rank, key in enumerate(ranked)}
    ranks = np.array([rank_of[keys[dialog]] for dialog in dialogs.tolist()], dtype=np.int64)
    return arrivals.ranking.holders(times, ranks)


def _dealt(
    shuffled: IntArray, keys: Sequence[str], ranked: Sequence[str], chosen: IntArray, counts: Counter[str]
) -> IntArray:
    """For each start the next dialog of the key of its rank, going round; counts those used again and those unused."""
    dealt = np.zeros(len(chosen), dtype=np.int64)
    of_key: dict[str, list[int]] = {key: [] for key in ranked}
    for dialog in shuffled.tolist():
        of_key[keys[dialog]].append(dialog)
    for rank, key in enumerate(ranked):
        places = np.flatnonzero(chosen == rank)
        dealt[places] = np.resize(of_key[key], len(places))
        counts["dialogs_used_again"] += max(0, len(places) - len(of_key[key]))
        counts["dialogs_unused"] += max(0, len(of_key[key]) - len(places))
    return dealt
