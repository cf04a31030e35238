"""What every reader of a public trace has in common, and how it draws the adapters that such traces lack."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from workloads.adapters import adapter_names
from workloads.header import Provenance
from workloads.popularity import DEFAULT_POPULARITY, parse_popularity
from workloads.seeds import generator
from workloads.trace import Trace


@dataclass(frozen=True)
class AdapterMapping:
    """How adapters are given to a trace that has none: one draw per session, from ``popularity``."""

    num_adapters: int = 50
    popularity: str = DEFAULT_POPULARITY
    seed: int = 0

    def names(self) -> tuple[str, ...]:
        return adapter_names(self.num_adapters)

    def draw(self, sessions: Sequence[int]) -> dict[int, str]:
        """An adapter for each session, in the order of first appearance."""
        order = list(dict.fromkeys(sessions))
        rng = generator(self.seed, "adapters")
        indices = parse_popularity(self.popularity).assign(rng, len(order), self.num_adapters)
        names = self.names()
        return {session: names[index] for session, index in zip(order, indices.tolist(), strict=True)}


class TraceReader(Protocol):
    """One published trace format."""

    @property
    def name(self) -> str:
        """The name ``--format`` knows it by."""

    @property
    def required_columns(self) -> frozenset[str]:
        """Fields every row must have; a file whose first row has them all is taken to be of this format."""

    @property
    def provenance(self) -> Provenance:
        """Where each field of the converted trace comes from."""

    def read(self, path: Path, mapping: AdapterMapping) -> Trace:
        """Converts a file. Raises LibraError, naming file, row and field, for a row that is not of the format."""
