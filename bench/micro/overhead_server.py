"""A server as `libra serve` runs it, whose engine also takes a load without HTTP.

Two equal engines would differ by more than HTTP costs.
"""

import asyncio
import time
from collections import deque
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from baselines import find_policy
from bench.micro.overhead_sides import Load, Measured
from libra.engine.record import RequestRecord
from libra.server.build import Front, build_front, make_engine, make_server
from libra.server.engine_client import connect
from libra.server.engine_process import EngineProcess
from libra.server.serve import new_event_loop, start_http
from libra.server.settings import EngineSettings, ServerSettings
from libra.short_slices import ask_for_short_slices

_LEAD_S = 0.05
_POLL_S = 5e-4


def serve_and_drive(directory: Path, pipe: Pipe) -> None:
    """The body of a process: tells its address through ``pipe`` once it serves, then answers each Load that comes with
    what its engine alone makes of it, until the other end closes or its process is gone."""
    settings = ServerSettings("base", port=0, lora_dirs=(directory / "adapters",))
    front = build_front(settings, EngineSettings(partial(find_policy, "fastlibra"), directory))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(front, pipe))


async def _serve(front: Front, pipe: Pipe) -> None:
    with EngineProcess(make_engine(front)) as process:
        server = make_server(front, await connect(process.connection))
        ask_for_short_slices()
        runner, address = await start_http(server)
        with suppress(EOFError, ConnectionError):
            pipe.send(address)
            while True:
                load = await asyncio.to_thread(pipe.recv)
                pipe.send(await server.engine.call(drive, load))
        await runner.cleanup()
        server.close()


def drive(parts: Any, load: Load) -> Measured:
    """Puts ``load`` through an engine with nobody in between. ``parts`` are an EngineParts, which is not imported here
    for torch's sake. An action of the engine's process: the server hears of nothing until it returns."""
    engine = parts.engine
    records: list[RequestRecord] = []
    on_record, engine.on_record = engine.on_record, records.append
    try:
        return _drive(engine, load, records)
    finally:
        engine.on_record = on_record


def _drive(engine: Any, load: Load, records: list[RequestRecord]) -> Measured:
    from libra.engine.sequence import SamplingParams
    from libra.request import Request

    scheduler, num_steps = engine.scheduler, engine.num_steps
    started_s, before_s = engine.clock.now() + _LEAD_S, time.process_time()
    waiting = deque(zip(range(load.num_requests), load.prompts(), load.arrivals_s(), strict=True))
    while waiting or scheduler.has_work:
        while waiting:
            number, prompt, arrival_s = waiting[0]
            now_s, num_open = engine.clock.now(), load.num_requests - len(waiting) - len(records)
            if load.request_rate is None:
                is_due, due_s = num_open < load.concurrency, now_s
            else:
                due_s = started_s + arrival_s
                is_due = due_s <= now_s
            if not is_due:
                break
            waiting.popleft()
            request = Request(number, due_s, load.adapter(number), load.output_tokens, prompt_token_ids=prompt)
            engine.submit(request, SamplingParams())
        next_s = started_s + waiting[0][2] if waiting and load.request_rate is not None else float("inf")
        if not engine.step(next_s):
            engine.clock.advance_to(min(next_s, engine.clock.now() + _POLL_S))
    ended_s, processor_s = engine.clock.now(), time.process_time() - before_s
    ttft_ms = [
        1e3 * (record.first_token_s - record.arrival_s) for record in records if record.first_token_s is not None
    ]
    return Measured(
        ttft_ms,
        ttft_ms,
        load.num_tokens / (ended_s - started_s),
        {"engine": 1e3 * processor_s / load.num_tokens},
        engine.num_steps - num_steps,
    )
