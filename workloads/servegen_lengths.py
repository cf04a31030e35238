"""Token lengths of ServeGen's clients: a distribution of input and output tokens per client and 6 hours."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from libra.errors import LibraError
from workloads.arrivals import FloatArray, IntArray
from workloads.rows import FieldFault
from workloads.sources import Source
from workloads.tables import MAX_TOKENS, json_document

# {60: 0.217, 61: 0.083}: Python's form of a dictionary, not JSON's.
INTEGER_KEY = re.compile(r"([{,]\s*)(\d+)\s*:")


@dataclass(frozen=True)
class Lengths:
    """A distribution of lengths in tokens: values ascending, and the cumulated share of each."""

    values: IntArray
    cumulated: FloatArray

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """``count`` independent lengths, 1 or more. Advances ``rng`` only."""
        places = np.searchsorted(self.cumulated, rng.random(count) * self.cumulated[-1], side="right")
        drawn: IntArray = np.maximum(self.values[np.minimum(places, len(self.values) - 1)], 1)
        return drawn


@dataclass(frozen=True)
class LengthTable:
    """The distributions of one client: those of input and output in force from each of ``starts_s`` on."""

    starts_s: FloatArray
    prompts: tuple[Lengths, ...]
    outputs: tuple[Lengths, ...]

    def sample(self, rng: np.random.Generator, times: FloatArray) -> tuple[IntArray, IntArray]:
        """Prompt and output lengths at ``times`` of the source; before the first start the first are in force."""
        window = np.maximum(np.searchsorted(self.starts_s, times, side="right") - 1, 0)
        prompts, outputs = np.zeros(len(times), dtype=np.int64), np.zeros(len(times), dtype=np.int64)
        for used in np.unique(window).tolist():
            here = window == used
            prompts[here] = self.prompts[used].sample(rng, int(here.sum()))
            outputs[here] = self.outputs[used].sample(rng, int(here.sum()))
        return prompts, outputs


def pooled(tables: Sequence[tuple[LengthTable, float]]) -> LengthTable:
    """One client that stands for several, each with its weight: for clients whose lengths are not published."""
    starts = np.unique(np.concatenate([table.starts_s for table, _ in tables]))
    prompts, outputs = [], []
    for start in starts.tolist():
        places = [max(int(np.searchsorted(table.starts_s, start, side="right")) - 1, 0) for table, _ in tables]
        pairs = list(zip(tables, places, strict=True))
        prompts.append(_mixed([(table.prompts[place], weight) for (table, weight), place in pairs]))
        outputs.append(_mixed([(table.outputs[place], weight) for (table, weight), place in pairs]))
    return LengthTable(starts, tuple(prompts), tuple(outputs))


def _mixed(parts: Sequence[tuple[Lengths, float]]) -> Lengths:
    values = np.concatenate([part.values for part, _ in parts])
    shares = np.concatenate(
        [np.diff(part.cumulated, prepend=0.0) / part.cumulated[-1] * weight for part, weight in parts]
    )
    distinct, places = np.unique(values, return_inverse=True)
    return Lengths(distinct, np.cumsum(np.bincount(places, weights=shares)))


def read_length_table(source: Source) -> LengthTable | None:
    """The table of a ``chunk-N-dataset.json``; periods without a request are left out, and None is one without any.

    Raises LibraError, with the file, the period and the field, for anything else.
    """
    document = json_document(source)
    if type(document) is not dict:
        raise LibraError(f"{source.name}: must be a JSON object of periods")
    starts, prompts, outputs = [], [], []
    for period, fields in document.items():
        try:
            if not period.isdecimal() or type(fields) is not dict:
                raise FieldFault(period, "must be a period's start in seconds, with an object")
            pair = _lengths(fields, "input_tokens"), _lengths(fields, "output_tokens")
        except FieldFault as fault:
            raise LibraError(f"{source.name}, period {period[:20]}: {fault}") from None
        if pair[0] is not None and pair[1] is not None:
            starts.append(float(period))
            prompts.append(pair[0])
            outputs.append(pair[1])
    if not starts:
        return None
    order = np.argsort(starts, kind="stable").tolist()
    return LengthTable(
        np.array(starts)[order], tuple(prompts[place] for place in order), tuple(outputs[place] for place in order)
    )


def _lengths(fields: dict[str, Any], name: str) -> Lengths | None:
    text = fields.get(name)
    if type(text) is not str:
        raise FieldFault(name, "must be the text of a dictionary from tokens to shares")
    try:
        shares = json.loads(INTEGER_KEY.sub(r'\1"\2":', text))
    except (ValueError, RecursionError):
        shares = None
    if type(shares) is not dict:
        raise FieldFault(name, "must be the text of a dictionary from tokens to shares")
    if not shares:
        return None
    for tokens, share in shares.items():
        if not tokens.isdecimal() or int(tokens) > MAX_TOKENS:
            raise FieldFault(name, f"has {tokens[:20]!r} tokens; it must be a whole number of at most {MAX_TOKENS:,}")
        if type(share) not in (int, float) or not 0 < share < math.inf:
            raise FieldFault(name, f"has the share {share!r} at {tokens} tokens; it must be positive and finite")
    values = np.array([int(tokens) for tokens in shares], dtype=np.int64)
    order = np.argsort(values, kind="stable")
    return Lengths(values[order], np.cumsum(np.array(list(shares.values()), dtype=np.float64)[order]))
