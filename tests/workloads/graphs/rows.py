"""Rows in the published schema of Alibaba's call records, made up from a seed: no row of the original."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workloads.graphs.records import COLUMNS

Row = dict[str, str]
TWO_SIDED = ("rpc", "http")


def row(rpcid: str, caller: str, callee: str, kind: str = "rpc", rt: float = 5, **changes: str) -> Row:
    """One row of trace ``t0``; remote calls name interface ``i`` of the callee."""
    interface = "i" if kind in TWO_SIDED else ""
    fields = ("t0", "1000", rpcid, caller, kind, callee, interface, str(rt))
    return {**dict(zip(COLUMNS, fields, strict=True)), **changes}


def both(rpcid: str, caller: str, callee: str, kind: str = "rpc", **changes: str) -> list[Row]:
    """A remote call as both of its sides record it."""
    return [row(rpcid, caller, callee, kind, rt, **changes) for rt in (5, -4)]


def write_rows(path: Path, rows: Iterable[Row]) -> Path:
    """A CSV with a nameless first column of row numbers, as published."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["", *COLUMNS])
        writer.writerows([number, *(entry[name] for name in COLUMNS)] for number, entry in enumerate(rows))
    return path


@dataclass(frozen=True)
class Family:
    """Services that are called in one style: ``fan_out`` callees a level over ``levels`` levels, each called with
    probability 0.8, and up to ``lookups`` calls to one cache by each service."""

    name: str
    num_entries: int
    fan_out: int
    levels: int
    lookups: int


WIDE = Family("wide", num_entries=6, fan_out=4, levels=1, lookups=6)
DEEP = Family("deep", num_entries=6, fan_out=1, levels=5, lookups=0)


def traces(families: Iterable[Family], num_traces: int, seed: int) -> Iterator[Row]:
    """The rows of ``num_traces`` traces of each family, trace by trace."""
    rng = np.random.default_rng(seed)
    for family in families:
        for number in range(num_traces):
            entry = f"{family.name}{int(rng.integers(family.num_entries))}"
            changes = {"traceid": f"{family.name}-{number}", "interface": "i"}
            yield from both("0", "USER", entry, "http", **changes)
            yield from _calls(family, entry, "0", 0, rng, changes)


def _calls(
    family: Family, caller: str, rpcid: str, level: int, rng: np.random.Generator, changes: Row
) -> Iterator[Row]:
    number = 0
    for _ in range(int(rng.integers(family.lookups + 1))):
        number += 1
        yield row(f"{rpcid}.{number}", caller, "cache", "mc", **{**changes, "interface": ""})
    for place in range(family.fan_out if level < family.levels else 0):
        if rng.random() < 0.8:
            callee = f"{caller.partition('-')[0]}-{level}.{place}"
            number += 1
            yield from both(f"{rpcid}.{number}", caller, callee, **changes)
            yield from _calls(family, callee, f"{rpcid}.{number}", level + 1, rng, changes)
