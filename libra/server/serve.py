"""Runs a server until it is told to stop: drains on the first signal, leaves on the second."""

import asyncio
import logging
import signal
from collections.abc import Callable
from functools import partial

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from libra.errors import LibraError
from libra.server.app import make_app
from libra.server.build import Front, make_engine, make_server
from libra.server.connections import ConnectionWatch, has_unsent
from libra.server.engine_client import connect
from libra.server.engine_process import EngineProcess
from libra.server.server import Server
from libra.short_slices import ask_for_short_slices

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def start_http(server: Server) -> tuple[web.AppRunner, str]:
    """Begins to listen; returns what to clean up and the address. Raises LibraError when the port cannot be had."""
    settings = server.settings
    logger = logging.getLogger("libra.server.http")
    logger.addFilter(_is_ours)
    watch = ConnectionWatch(settings.read_timeout_s)
    # A handler whose client has gone is cancelled, which ends its sequences.
    runner = web.AppRunner(
        make_app(server, watch), handler_cancellation=True, access_log=None, shutdown_timeout=1.0, logger=logger
    )
    await runner.setup()
    assert runner.server is not None
    watch.begin(runner.server)
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as error:
        await runner.cleanup()
        raise LibraError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; choose another --port or --host"
        ) from error
    host, port = runner.addresses[0][:2]
    return runner, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a log record is of more than bytes that are no HTTP: anybody can send such, and fill a log with them."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, HttpProcessingError | web.RequestPayloadError)


def run(front: Front, say: Callable[[str], None]) -> bool:
    """Serves until a signal, then drains. ``say`` is told what happens. Whether everything ended as it should.
    Raises LibraError when there is no engine to be had, or no port."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_serve(front, say))


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed: it needs less of the processors that the engine computes on."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def _serve(front: Front, say: Callable[[str], None]) -> bool:
    with EngineProcess(make_engine(front)) as process:
        server = make_server(front, await connect(process.connection))
        # The engine may keep every processor busy; what is to be done here is little, and somebody waits for it.
        ask_for_short_slices()
        try:
            return await _serve_until_told(server, say)
        finally:
            server.close()


async def _serve_until_told(server: Server, say: Callable[[str], None]) -> bool:
    loop = asyncio.get_running_loop()
    asked_to_stop, in_a_hurry = asyncio.Event(), asyncio.Event()

    def note_signal() -> None:
        (in_a_hurry if asked_to_stop.is_set() else asked_to_stop).set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, note_signal)
    try:
        runner, address = await start_http(server)
        assert runner.server is not None
        name, num_adapters = server.model.name, len(server.adapters.paths)
        say(f"serving {name} with {num_adapters} adapters on {address} ({server.engine.device})")
        await asked_to_stop.wait()
        say(f"draining {len(server.engine.streams)} requests")
        ended_well = await _drain(server, partial(has_unsent, runner.server), in_a_hurry)
        await runner.cleanup()
        say("stopped" if ended_well else "stopped with requests unfinished")
        return ended_well
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def _drain(server: Server, has_unsent: Callable[[], bool], in_a_hurry: asyncio.Event) -> bool:
    draining = asyncio.create_task(server.drain(has_unsent))
    hurrying = asyncio.create_task(in_a_hurry.wait())
    await asyncio.wait((draining, hurrying), return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if draining.done():
        return draining.result()
    draining.cancel()
    return False
