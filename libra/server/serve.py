"""Runs a server until it is told to stop: drains on the first signal, leaves on the second."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from libra.errors import LibraError
from libra.server.app import make_app
from libra.server.build import Parts, make_server
from libra.server.server import Server

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# How long one thread may keep the interpreter from another. Python's 5 ms is what a token could wait for the engine's
# thread each time the event loop comes back from a system call.
_SWITCH_INTERVAL_S = 0.0005


async def start_http(server: Server) -> tuple[web.AppRunner, str]:
    """Begins to listen; returns what to clean up and the address. Raises LibraError when the port cannot be had."""
    settings = server.settings
    logger = logging.getLogger("libra.server.http")
    logger.addFilter(_is_ours)
    # A handler whose client has gone is cancelled, which ends its sequences.
    runner = web.AppRunner(
        make_app(server), handler_cancellation=True, access_log=None, shutdown_timeout=1.0, logger=logger
    )
    await runner.setup()
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


async def serve(parts: Parts, say: Callable[[str], None]) -> bool:
    """Serves until a signal, then drains. ``say`` is told what happens. Whether everything ended as it should."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    server = make_server(parts)
    loop = asyncio.get_running_loop()
    asked_to_stop, in_a_hurry = asyncio.Event(), asyncio.Event()

    def note_signal() -> None:
        (in_a_hurry if asked_to_stop.is_set() else asked_to_stop).set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, note_signal)
    try:
        runner, address = await start_http(server)
        name, device = server.model.name, server.engine.engine.executor.describe()
        say(f"serving {name} with {len(server.adapters.paths)} adapters on {address} ({device})")
        await asked_to_stop.wait()
        say(f"draining {len(server.engine.streams)} requests")
        ended_well = await _drain(server, in_a_hurry)
        await runner.cleanup()
        say("stopped" if ended_well else "stopped with requests unfinished")
        return ended_well
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        server.close()


async def _drain(server: Server, in_a_hurry: asyncio.Event) -> bool:
    draining, hurrying = asyncio.create_task(server.drain()), asyncio.create_task(in_a_hurry.wait())
    await asyncio.wait((draining, hurrying), return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if draining.done():
        return draining.result()
    draining.cancel()
    return False
