"""Samples of a server's Prometheus metrics during a run, as the columns of a timeline.

Runs in a process of its own: reading a page of metrics takes milliseconds that no sender can spare.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from multiprocessing.connection import Connection as Pipe

from bench.replay.http import Address
from bench.replay.server import get
from libra.errors import LibraError

PATH = "/metrics"
_TIMEOUT_S = 5.0
_JOIN_S = 5.0
# Buckets of histograms, times of creation, and facts written as labels: no quantity to follow.
_SKIPPED = ("_bucket", "_created", "_info")
# Labels that say which server it is rather than what is counted.
_IDENTITY_LABELS = frozenset({"model_name", "engine", "engine_index", "policy"})
# What the timeline of an engine calls the samples of a libra or vLLM server.
TIMELINE_NAMES = {
    **{f"libra:hbm_blocks{{use={use}}}": f"{use}_blocks" for use in ("adapter", "history", "running", "in_flight")},
    "libra:hbm_blocks{use=free}": "free_blocks",
    "libra:host_blocks": "host_blocks",
    "libra:invalid_kv_blocks": "invalid_blocks",
    "libra:adapters_resident{tier=hbm}": "adapters_in_hbm",
    "vllm:num_requests_waiting": "waiting",
    "vllm:num_requests_running": "running",
}
COUNTER_NAMES = {
    "libra:swap_bytes_total{direction=in}": "swap_in_bytes",
    "libra:swap_bytes_total{direction=out}": "swap_out_bytes",
    "libra:prefetch_bytes_total": "prefetch_in_bytes",
    "libra:prefetch_used_bytes_total": "prefetch_used_bytes",
    "vllm:num_preemptions_total": "preemptions",
    "libra:stall_seconds_total": "stall_s",
    "libra:engine_steps_total": "num_steps",
}


@dataclass(frozen=True)
class Scraped:
    """``columns`` has ``time_s`` and one list per sample, NaN where a page lacks it. ``counters`` say by how much
    counters grew over the run. ``num_failed`` pages could not be read. ``is_lost``: the scraper died, and took with it
    what it had."""

    columns: dict[str, list[float]] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    num_failed: int = 0
    is_lost: bool = False


class Timeline:
    """Gathers pages of metrics into columns of equal length. Mutated by ``add``."""

    def __init__(self) -> None:
        self._times_s: list[float] = []
        self._pages: list[dict[str, float]] = []
        self.num_failed = 0

    def add(self, time_s: float, page: str) -> None:
        """Adds one page, taken at ``time_s``. Raises ValueError for text that is no page of metrics."""
        samples = read_page(page)
        self._times_s.append(time_s)
        self._pages.append(samples)

    def scraped(self) -> Scraped:
        names = list(dict.fromkeys(name for page in self._pages for name in page))
        columns = {"time_s": self._times_s}
        columns |= {
            TIMELINE_NAMES.get(name, name): [page.get(name, float("nan")) for page in self._pages] for name in names
        }
        counters = {}
        if self._pages:
            first, last = self._pages[0], self._pages[-1]
            counters = {ours: last[name] - first.get(name, 0.0) for name, ours in COUNTER_NAMES.items() if name in last}
        return Scraped(columns, counters, self.num_failed)


def read_page(page: str) -> dict[str, float]:
    """Sample name with its labels -> value, without what is ``_SKIPPED``. Raises ValueError.

    Samples that differ only in which server they are of are added up, shares (``_perc``) averaged.
    """
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(page))
    except Exception as error:  # in a damaged page the parser stumbles over whatever it meets
        raise ValueError(f"no page of metrics: {error}") from error
    values: dict[str, list[float]] = {}
    shares = set()
    for sample in (sample for family in families for sample in family.samples):
        if sample.name.endswith(_SKIPPED):
            continue
        name = _column(sample.name, sample.labels)
        values.setdefault(name, []).append(float(sample.value))
        if sample.name.endswith("_perc"):
            shares.add(name)
    return {name: sum(same) / (len(same) if name in shares else 1) for name, same in values.items()}


def _column(name: str, labels: Mapping[str, str]) -> str:
    kept = ",".join(f"{key}={labels[key]}" for key in sorted(labels) if key not in _IDENTITY_LABELS)
    return f"{name}{{{kept}}}" if kept else name


def check_scraping(address: Address, headers: Mapping[str, str]) -> None:
    """Raises LibraError when prometheus-client is missing or the server has no page of metrics."""
    try:
        status, body = get(address, PATH, headers)
        read_page(body.decode("utf-8", errors="replace"))
    except ImportError:
        raise LibraError("--scrape needs prometheus-client: pip install 'libra-lora[server]'") from None
    except (OSError, HTTPException, ValueError) as error:
        raise LibraError(f"--scrape: {address}{PATH} gives no metrics ({error}); leave out --scrape") from None
    if status != 200:
        raise LibraError(f"--scrape: {address}{PATH} answers HTTP {status}; leave out --scrape")


@dataclass
class Scraper:
    """The scraping process. ``stop`` ends it and returns what it gathered, times as of ``time.monotonic``; where it has
    died, that it is lost."""

    _pipe: Pipe

    def stop(self) -> Scraped:
        try:
            self._pipe.send(None)
            result = self._pipe.recv()
        except (EOFError, OSError):
            return Scraped({"time_s": []}, is_lost=True)
        assert isinstance(result, Scraped)
        return result


@contextmanager
def scraping(address: Address, headers: Mapping[str, str], interval_s: float) -> Iterator[Scraper]:
    """Samples every ``interval_s`` seconds until ``stop``."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_scrape, args=(address, dict(headers), interval_s, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Scraper(ours)
    finally:
        ours.close()
        process.join(_JOIN_S)
        if process.is_alive():
            process.terminate()


def _scrape(address: Address, headers: Mapping[str, str], interval_s: float, pipe: Pipe) -> None:
    """The body of the process: one page at once, then one per interval, and a last one when told to stop."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    timeline = Timeline()
    for _ in at_intervals(interval_s, pipe.poll):
        try:
            status, body = get(address, PATH, headers, _TIMEOUT_S)
            if status != 200:
                raise HTTPException(f"HTTP {status}")
            timeline.add(time.monotonic(), body.decode("utf-8", errors="replace"))
        except (OSError, HTTPException, ValueError):
            timeline.num_failed += 1
    try:
        pipe.recv()
        pipe.send(timeline.scraped())
    except (EOFError, OSError):
        return  # the parent is gone, and with it whoever wanted the result


def at_intervals(
    interval_s: float, wait: Callable[[float], bool], clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Yields at once, then every ``interval_s`` seconds, and a last time when ``wait`` says that the end has come.

    What a long turn has missed is not made up for.
    """
    next_s = clock()
    ending = False
    while not ending:
        ending = wait(max(next_s - clock(), 0.0))
        yield
        next_s = max(next_s + interval_s, clock())
