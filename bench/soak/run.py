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

MAX_SAMPLES = 900
_PEAK_CONCURRENCY = 32
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sample:
    """The server at ``time_s`` since the traffic began. ``open_requests``: sent and not answered."""

    time_s: float
    requests: int
    open_requests: int
    usage: Usage

    def row(self) -> dict[str, float | int]:
        usage = {name: round(value, 3) for name, value in asdict(self.usage).items()}
        return {"time_s": round(self.time_s, 1), "requests": self.requests, "open_requests": self.open_requests} | usage


@dataclass(frozen=True)
class SoakResult:
    """``breaches`` empty means passed. ``exit_status`` 0 says that the server drained and its pool adds up."""

    peak_rps: float
    rate_rps: float
    samples: list[Sample]
    tally: Tally
    drift: Drift | None
    exit_status: int | None
    breaches: list[str]


def soak(model: Path, adapters: Path, settings: SoakSettings, say: Say) -> SoakResult:
    """Starts a server for ``model`` and soaks it. Raises LibraError when it does not come up."""
    arguments = ["--lora-dir", str(adapters)]
    arguments += ["--hbm-cache-gib", f"{settings.hbm_cache_gib}", "--host-cache-gib", f"{settings.host_cache_gib}"]
    with ServedProcess(model, arguments) as server:
        say(f"{server.said[-1]}")
        peak_rps, rate_rps, samples, tally = asyncio.run(_Soak(server, settings, say).run())
        exit_status = server.stop()
        counted = [sample for sample in samples if sample.time_s >= settings.warmup_share * settings.minutes * 60.0]
        drift = measure_drift([sample.time_s for sample in counted], [sample.usage.rss_mib for sample in counted])
        breaches = list(tally.breaches)
        if tally.num_breaches > len(breaches):
            breaches.append(f"and {tally.num_breaches - len(breaches)} more of these")
        if exit_status != 0:
            breaches.append(f"the server ended with {exit_status}: {' / '.join(list(server.said)[-5:])}")
        if drift is None or drift.growth > settings.max_drift:
            breaches.append(
                "memory: too few samples" if drift is None else f"memory grew by {100 * drift.growth:.2f} %"
            )
    return SoakResult(peak_rps, rate_rps, samples, tally, drift, exit_status, breaches)


class _Soak:
    def __init__(self, server: ServedProcess, settings: SoakSettings, say: Say) -> None:
        self._server = server
        self._settings = settings
        self._say = say
        self._rng = random.Random(settings.seed)
        self._open: set[asyncio.Task[None]] = set()
        self._samples: list[Sample] = []
        self._started_s = 0.0

    async def run(self) -> tuple[float, float, list[Sample], Tally]:
        """Peak and rate in requests per second, the samples, and what happened."""
        settings, tally = self._settings, Tally()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
            api = Api(session, self._server.url)
            cards = await api.models()
            vocab_size = cards[0]["libra"]["vocab_size"]
            expected = await self._expected(api, cards, vocab_size)
            self._say(f"{len(expected)} answers known")
            seed = settings.seed + 1
            peak_rps = settings.peak_rps
            if peak_rps is None:
                measured = Traffic(api, expected, tally, settings.deadline_s, vocab_size, seed)
                peak_rps = await self._measure_peak(measured, tally)
            rate_rps = settings.load * peak_rps
            self._say(f"peak {peak_rps:.1f} req/s; sending {rate_rps:.1f} req/s for {settings.minutes:g} minutes")
            traffic = Traffic(api, expected, tally, settings.deadline_s, vocab_size, seed + 1)
            self._started_s = time.monotonic()
            guests = [(card["id"], card["root"]) for card in cards if card["parent"]]
            until_s = self._started_s + settings.minutes * 60.0
            churn = asyncio.create_task(traffic.churn(guests, settings.churn_s, until_s))
            sampling = asyncio.create_task(self._sample(tally))
            await self._send(traffic, rate_rps, until_s, churn, sampling)
            await asyncio.gather(churn, *self._open)
            sampling.cancel()
        return peak_rps, rate_rps, self._samples, tally

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

    async def _sample(self, tally: Tally) -> None:
        """Looks at the server until cancelled."""
        every_s = max(1.0, self._settings.minutes * 60.0 / MAX_SAMPLES)
        told_s = 0.0
        while True:
            time_s, usage = time.monotonic() - self._started_s, self._server.usage()
            self._samples.append(Sample(time_s, tally.num_done, len(self._open), usage))
            if time_s >= told_s:
                told_s = time_s + 60.0
                self._say(f"{time_s:6.0f} s: {tally.num_done} requests, RSS {usage.rss_mib:.1f} MiB, "
                          f"{usage.open_files} files, {tally.num_breaches} breaches")  # fmt: skip
            await asyncio.sleep(every_s)
