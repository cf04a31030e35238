"""One soak from start to verdict."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.soak.api import Api
from bench.soak.expected import Expected, compute_expected
from bench.soak.memory import Drift, measure_drift
from bench.soak.process import ServedProcess, Usage
from bench.soak.settings import SoakSettings
from bench.soak.tally import Tally
from bench.soak.traffic import Traffic
from libra.errors import LibraError

MAX_SAMPLES = 900
_PEAK_CONCURRENCY = 32
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sample:
    """The server at ``time_s`` since the traffic began. ``open_requests``: sent and not answered. ``host_used``: share
    of the host tier's blocks in use."""

    time_s: float
    requests: int
    open_requests: int
    host_used: float
    usage: Usage

    def row(self) -> dict[str, float | int]:
        usage = {name: round(value, 3) for name, value in asdict(self.usage).items()}
        counts = {"requests": self.requests, "open_requests": self.open_requests, "host_used": round(self.host_used, 3)}
        return {"time_s": round(self.time_s, 1), **counts, **usage}


@dataclass(frozen=True)
class SoakResult:
    """``breaches`` empty means passed, unless ``interrupted``: then the figures are of the part until that.
    ``exit_status`` 0 says that the server drained and its pool adds up."""

    peak_rps: float
    rate_rps: float
    samples: list[Sample]
    tally: Tally
    drift: Drift | None
    exit_status: int | None
    breaches: list[str]
    interrupted: bool = False

    @property
    def verdict(self) -> str:
        if self.interrupted:
            return "INTERRUPTED"
        return "FAILED" if self.breaches else "PASSED"


def soak(model: Path, adapters: Path, settings: SoakSettings, say: Say) -> SoakResult:
    """Starts a server for ``model`` and soaks it, until the end or Ctrl-C.

    Raises LibraError when it does not come up, or ends before there is anything to tell.
    """
    arguments = ["--lora-dir", str(adapters)]
    arguments += ["--hbm-cache-gib", f"{settings.hbm_cache_gib}", "--host-cache-gib", f"{settings.host_cache_gib}"]
    with ServedProcess(model, arguments) as server:
        say(f"{server.said[-1]}")
        under_way, interrupted, ended_early = _Soak(server, settings, say), False, None
        try:
            asyncio.run(under_way.run())
        except KeyboardInterrupt:
            interrupted = True
        except (LibraError, aiohttp.ClientError) as error:
            if not under_way.samples:
                raise
            ended_early = f"the soak ended early: {error}"
        exit_status = server.stop()
        said = " / ".join(list(server.said)[-5:])
    drift = drift_of(under_way.samples, settings)
    breaches = breaches_of(under_way.tally, drift, settings.max_drift)
    if ended_early is not None:
        breaches.append(ended_early)
    if exit_status != 0:
        breaches.append(f"the server ended with {exit_status}: {said}")
    rates, samples = (under_way.peak_rps, under_way.rate_rps), under_way.samples
    return SoakResult(*rates, samples, under_way.tally, drift, exit_status, breaches, interrupted)


def drift_of(samples: list[Sample], settings: SoakSettings) -> Drift | None:
    """How memory moved once the warm-up was over."""
    counted = [sample for sample in samples if sample.time_s >= settings.warmup_share * settings.minutes * 60.0]
    return measure_drift([sample.time_s for sample in counted], [sample.usage.rss_mib for sample in counted])


def breaches_of(tally: Tally, drift: Drift | None, max_drift: float) -> list[str]:
    """What must not have happened, in words."""
    breaches = list(tally.breaches)
    if tally.num_breaches > len(breaches):
        breaches.append(f"and {tally.num_breaches - len(breaches)} more of these")
    if drift is None:
        breaches.append("memory: too few samples")
    elif drift.worst > max_drift:
        breaches.append(f"memory grew by {100 * drift.worst:.2f} %")
    return breaches


class _Soak:
    def __init__(self, server: ServedProcess, settings: SoakSettings, say: Say) -> None:
        self._server = server
        self._settings = settings
        self._say = say
        self._rng = random.Random(settings.seed)
        self._open: set[asyncio.Task[None]] = set()
        self._started_s = 0.0
        self.samples: list[Sample] = []
        self.tally = Tally()
        self.peak_rps = self.rate_rps = 0.0

    async def run(self) -> None:
        """Fills ``samples`` and ``tally`` as it goes. The rates, in requests per second, are 0 until they are known."""
        settings, tally = self._settings, self.tally
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
            api = Api(session, self._server.url)
            cards = await api.models()
            vocab_size = cards[0]["libra"]["vocab_size"]
            expected = await self._expected(api, cards, vocab_size)
            self._say(f"{len(expected)} answers known")
            seed = settings.seed + 1
            if settings.peak_rps is None:
                measured = Traffic(api, expected, tally, settings.deadline_s, vocab_size, seed)
                self.peak_rps = await self._measure_peak(measured, tally)
            else:
                self.peak_rps = settings.peak_rps
            self.rate_rps = rate_rps = settings.load * self.peak_rps
            self._say(f"peak {self.peak_rps:.1f} req/s; sending {rate_rps:.1f} req/s for {settings.minutes:g} minutes")
            traffic = Traffic(api, expected, tally, settings.deadline_s, vocab_size, seed + 1)
            self._started_s = time.monotonic()
            guests = [(card["id"], card["root"]) for card in cards if card["parent"]]
            until_s = self._started_s + settings.minutes * 60.0
            churn = asyncio.create_task(traffic.churn(guests, settings.churn_s, until_s))
            sampling = asyncio.create_task(self._sample(api))
            await self._send(traffic, rate_rps, until_s, churn, sampling)
            await asyncio.gather(churn, *self._open)
            sampling.cancel()

    async def _expected(self, api: Api, cards: list[dict[str, Any]], vocab_size: int) -> list[Expected]:
        settings, known = self._settings, []
        for card in cards:
            known += await compute_expected(
                api, card["id"], settings.prompts_per_adapter, settings.answer_tokens, vocab_size, self._rng
            )
        return known

    async def _measure_peak(self, traffic: Traffic, tally: Tally) -> float:
        """Requests of the mixture per second that a closed loop gets through."""
        started_s, before = time.monotonic(), tally.num_done
        end_s = started_s + self._settings.peak_seconds

        async def worker() -> None:
            while time.monotonic() < end_s:
                await traffic.send_one()

        await asyncio.gather(*(worker() for _ in range(_PEAK_CONCURRENCY)))
        return (tally.num_done - before) / (time.monotonic() - started_s)

    async def _send(self, traffic: Traffic, rate_rps: float, until_s: float, *others: asyncio.Task[None]) -> None:
        """Poisson arrivals until ``until_s``. Raises what one of ``others`` has failed with."""
        due_s = self._started_s
        while (due_s := due_s + self._rng.expovariate(rate_rps)) < until_s:
            await asyncio.sleep(max(due_s - time.monotonic(), 0.0))
            for other in others:
                if other.done():
                    other.result()
            task = asyncio.create_task(traffic.send_one())
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _sample(self, api: Api) -> None:
        """Looks at the server until cancelled."""
        tally = self.tally
        every_s = max(1.0, self._settings.minutes * 60.0 / MAX_SAMPLES)
        told_s = 0.0
        while True:
            host_used = await api.host_used()
            time_s, usage = time.monotonic() - self._started_s, self._server.usage()
            self.samples.append(Sample(time_s, tally.num_done, len(self._open), host_used, usage))
            if time_s >= told_s:
                told_s = time_s + 60.0
                self._say(
                    f"{time_s:6.0f} s: {tally.num_done} requests, RSS {usage.rss_mib:.1f} MiB, "
                    f"{100 * host_used:.0f} % of host tier, {usage.open_files} files, {tally.num_breaches} breaches"
                )
            await asyncio.sleep(every_s)
