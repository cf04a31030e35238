"""Settings that the paper leaves open, each fixed by one rule, and how much of the grid a run takes.

* Cache: half of the working set at the nominal rate. The preset HBM holds every adapter of the paper's set-ups, so that
  nothing has to leave; a second regime shows it. The controls sweep 0.1 to 1.0.
* Nominal rate: 5 req/s, the one load that the paper names (its Fig. 9).
* Load: fractions of the peak measured for vllm in the same case, so that the baseline is stable by construction. All
  policies of a case see the same requests.
* Tight memory, in which rankings and ablations are run as well: HBM for 0.3 of the working set and a host tier for 0.5
  of it, so that together they cannot hold everything, behind PCIe 4 x16 (32 GB/s, the machine of the paper's first
  version). Loads are fractions of fastlibra's own peak there, since the paper's send rates go up to its own.
* Peak: mean TTFT < 500 ms, as in the paper, on a grid of equal ratios. Loads refer to the peak of the first seed.
* Length: a number of requests, at least 20 s (40 times the limit of a peak, so that a rate 5 % too high shows), and at
  least so many times the mean time between two turns of a session. Runs of less than one such time see few
  sessions return: the host tier then counts for less than it should, which is so in --quick and in searches of a peak
  but for --full. The first fifth is left out. A trace begins with sessions under way and with an empty cache.
* Host tier: 256 GiB, the paper's machine. tau, half-life and Eq. 4: libra's defaults, which results/tuning chose on
  seeds that are not used here. Link: the device's datasheet.
"""

from dataclasses import dataclass, replace

from bench.reproduce.cells import Case
from libra.errors import LibraError
from workloads.registry import find_workload
from workloads.sessions import SessionConfig

NOMINAL_RATE = 5.0
NOMINAL_DURATION_S = 300.0
WARMUP_SHARE = 0.2
TTFT_LIMIT_MS = 500.0
LEAST_S = 20.0
DEVICE = "h800"

SCENARIOS = ("chatbot", "translation", "agents")
MODELS = ("llama3-8b", "llama2-34b", "llama3-70b")
ADAPTERS = (20, 50, 100)
MIDDLE_LOAD = 0.6
TIGHT_CACHE, TIGHT_HOST, TIGHT_LINK_GBPS = 0.3, 0.5, 32.0
SYSTEMS = ("fastlibra", "vllm", "slora")
OTHERS = ("lfu", "gdsf", "s3fifo", "arc", "sglang", "chameleon", "caraserve")


@dataclass(frozen=True)
class Scale:
    """How much of the grid is run: ``requests`` to a run, ``seeds`` of each from ``first_seed`` on, a run to be at
    least ``returns`` times between two turns long, and a run of a search ``peak_returns``. ``peak_seeds``: searches of
    a peak in the cases of ``study``; ``grid_peak_seeds``: in others.

    ``grid``: the cases of Fig. 11. ``loads``: of vllm's peak. ``study``: the cases of ablations, rankings and
    breakdown; ``study_peaks``: those in which they have peaks; ``tight_loads``: of fastlibra's peak in tight memory.
    ``controls``: the cases of the controls. ``preset``: those with the preset HBM. ``adapters_of_oracle``, ``crowds``
    and ``spreads``: Fig. 19 and 18. ``others``: policies of Fig. 17 that the paper has not. ``against``: what fastlibra
    is set beside under settings of the machine.
    """

    name: str
    requests: int
    returns: float
    seeds: int
    peak_requests: int
    peak_returns: float
    peak_seeds: int
    grid_peak_seeds: int
    tolerance: float
    grid: tuple[Case, ...]
    loads: tuple[float, ...]
    study: tuple[Case, ...]
    study_peaks: tuple[Case, ...]
    tight_loads: tuple[float, ...]
    controls: tuple[Case, ...]
    preset: tuple[Case, ...]
    adapters_of_oracle: tuple[int, ...]
    crowds: tuple[int, ...]
    spreads: tuple[str, ...]
    others: tuple[str, ...]
    against: tuple[str, ...]
    first_seed: int = 0

    @property
    def run_seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)

    def num_peak_seeds(self, case: Case) -> int:
        """Searches of a policy's peak in a case."""
        return self.peak_seeds if case in self.study else self.grid_peak_seeds

    def least_s(self, case: Case) -> float:
        """The shortest run of a case, in seconds."""
        return max(LEAST_S, round(self.returns * turn_gap_s(case), 1))

    def least_peak_s(self, case: Case) -> float:
        """The shortest run in a search of a peak, in seconds."""
        return max(LEAST_S, round(self.peak_returns * turn_gap_s(case), 1))


def turn_gap_s(case: Case) -> float:
    """Mean time from a turn of a session to the next; 0 where sessions have one turn, and for the requests of a file,
    of which nothing is assumed."""
    if case.trace is not None:
        return 0.0
    sessions = find_workload(case.workload)
    if not isinstance(sessions, SessionConfig) or sessions.mean_turns <= 1:
        return 0.0
    return sessions.turn_gap_s


def _scenarios(model: str = MODELS[0], num_loras: int = 50) -> tuple[Case, ...]:
    return tuple(Case(scenario, model, num_loras) for scenario in SCENARIOS)


def tight(case: Case) -> Case:
    """The case with memory that is too small."""
    return replace(case, cache=TIGHT_CACHE, host=TIGHT_HOST, link_gbps=TIGHT_LINK_GBPS, load_of="fastlibra")


_GRID = tuple(Case(scenario, model, num_loras) for scenario in SCENARIOS for model in MODELS for num_loras in ADAPTERS)
_PRESET = tuple(replace(case, cache=None) for case in _scenarios())

QUICK = Scale(
    name="quick",
    requests=300,
    returns=0.35,
    seeds=3,
    peak_requests=300,
    peak_returns=0.25,
    peak_seeds=1,
    grid_peak_seeds=1,
    tolerance=0.2,
    grid=(*_scenarios(), Case("chatbot", "llama2-34b")),
    loads=(MIDDLE_LOAD,),
    study=_scenarios(),
    study_peaks=(),
    tight_loads=(),
    controls=(Case("chatbot"),),
    preset=(),
    adapters_of_oracle=(50,),
    crowds=(1000,),
    spreads=("uniform",),
    others=("chameleon",),
    against=("vllm",),
)
DEFAULT = Scale(
    name="default",
    requests=500,
    returns=1.0,
    seeds=3,
    peak_requests=400,
    peak_returns=0.5,
    peak_seeds=3,
    grid_peak_seeds=1,
    tolerance=0.1,
    grid=_GRID,
    loads=(MIDDLE_LOAD,),
    study=_scenarios(),
    study_peaks=(Case("chatbot"),),
    tight_loads=(MIDDLE_LOAD, 0.9),
    controls=(Case("chatbot"), Case("agents")),
    preset=_PRESET,
    adapters_of_oracle=ADAPTERS,
    crowds=(1000, 2000),
    spreads=("uniform",),
    others=OTHERS,
    against=("vllm", "wos"),
)
FULL = replace(
    DEFAULT,
    name="full",
    requests=9000,
    returns=10.0,
    seeds=5,
    peak_requests=9000,
    peak_returns=10.0,
    peak_seeds=5,
    grid_peak_seeds=5,
    tolerance=0.05,
    loads=(0.3, MIDDLE_LOAD, 0.9),
    study=_GRID,
    study_peaks=_scenarios(),
    tight_loads=(0.3, MIDDLE_LOAD, 0.9),
    controls=_scenarios(),
    preset=tuple(replace(case, cache=None) for case in _GRID),
    spreads=("uniform", "distinct", "gaussian:0.1", "gaussian:0.3"),
)


# libra against fastlibra: short runs, many seeds, none of which libra was made on.
GAIN = replace(
    DEFAULT, name="gain", requests=300, returns=0.5, seeds=5, first_seed=100, peak_requests=300, peak_returns=0.25
)
_GAIN_RULES = f"""\
* Grid: a case names its scenario, its cache (HBM as a share of the working set at {NOMINAL_RATE:g} req/s), its host
  tier (a share of it too, or unbounded, which holds everything) and its load. Llama-3-8B, 50 adapters.
* Load: fractions of the peak measured for fastlibra on the same machine. All policies of a case see the same requests.
* Peak: mean TTFT < {TTFT_LIMIT_MS:g} ms on a grid of equal ratios. Loads refer to the peak of the first seed.
* Length: a number of requests, at least {LEAST_S:g} s, and at least {GAIN.returns:g} of the mean time between two turns
  of a session ({GAIN.peak_returns:g} in searches of a peak), so that the host tier counts for less than in a long run.
  The first fifth is left out. A trace begins with sessions under way and with an empty cache.
* Seeds: {GAIN.first_seed} to {GAIN.run_seeds[-1]}. libra was made on others.
* Files (--trace): their requests stretched to the load; adapters are drawn where a file names none.
* Link: the device's datasheet."""


def rules_text(scale_name: str) -> str:
    """The rules of a study as its README has them, under a heading."""
    if scale_name == GAIN.name:
        return f"## Rules\n\n{_GAIN_RULES}"
    _, _, text = (__doc__ or "").partition("\n\n")
    return f"## What the paper leaves open\n\n{text.strip()}"


def choose_scale(quick: bool, full: bool) -> Scale:
    """The scale that the flags name. Raises LibraError for both."""
    if quick and full:
        raise LibraError("--quick and --full are two sizes of one study: give one of them")
    return QUICK if quick else FULL if full else DEFAULT
