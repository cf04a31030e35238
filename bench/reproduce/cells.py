"""What is simulated: cells of one policy, one case, one rate and one seed, shared by all figures."""

import json
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

from bench.reproduce.policies import policy_of

# Raised when a cell of equal settings would now be measured in another way.
CELL_VERSION = 2
KEY_LENGTH = 16

Kind = Literal["run", "timeline", "peak", "probe"]


@dataclass(frozen=True)
class Case:
    """A workload, or the requests of a file (``trace``), on a machine.

    ``cache``: HBM as a fraction of the working set at the nominal rate, None for all that the preset device has.
    ``host``: the host tier as such a fraction, None for ``host_gib``, of which infinity never drops anything.
    ``link_gbps`` None is the device's own. ``load_of``: the policy whose peak is load 1.
    """

    workload: str
    model: str = "llama3-8b"
    num_loras: int = 50
    popularity: str | None = None
    arrivals: str = "poisson"
    cache: float | None = 0.5
    host: float | None = None
    host_gib: float = 256.0
    link_gbps: float | None = None
    block_tokens: int = 32
    load_of: str = "vllm"
    trace: Path | None = None

    @property
    def name(self) -> str:
        """Scenario, model and adapters; what differs from the rules is named where it is varied."""
        spread = f" {self.popularity}" if self.popularity else ""
        memory = " preset HBM" if self.cache is None else ""
        tight = " tight memory" if self.host is not None else ""
        return f"{self.workload} {self.model} {self.num_loras}{spread}{memory}{tight}"


@dataclass(frozen=True)
class Cell:
    """One run, one that keeps what HBM held when, one search of a peak, or one run whose bookkeeping is timed (probe).

    ``rate``: requests per second, and where a search begins. ``requests`` and ``least_s``: the run's length, in
    expected arrivals and in seconds, whichever is longer. ``tolerance``: of a search, 0 for a run. ``stride``: rates
    that a search takes at a time at first, 0 for a doubling.
    """

    kind: Kind
    case: Case
    policy: str
    seed: int
    rate: float
    requests: int
    least_s: float
    tolerance: float = 0.0
    stride: int = 0

    def duration_s(self, rate: float) -> float:
        """Seconds of arrivals at ``rate``."""
        return max(self.requests / rate, self.least_s)

    @property
    def key(self) -> str:
        """A digest of all that decides the cell's figures, the fields of its policy among them."""
        policy = [candidate.settings() for candidate in policy_of(self.policy).candidates]
        text = json.dumps([CELL_VERSION, asdict(self), policy], sort_keys=True, default=str)
        return sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def workload_of(case: Case) -> Case:
    """The case on the machine of the rules. The preset HBM, and a workload of its own, keep theirs."""
    cache = None if case.cache is None else Case.cache
    machine = {
        name: getattr(Case, name) for name in ("host", "host_gib", "link_gbps", "block_tokens", "arrivals", "load_of")
    }
    return replace(case, cache=cache, **machine)
