"""A stub server in a thread of its own, for tests that run the whole command."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.bench.replay.stub_server import Behaviour, Stub, serving

Start = Callable[[Behaviour], Stub]


@pytest.fixture
def start_stub() -> Iterator[Start]:
    """Starts stubs that run until the test ends."""
    with ExitStack() as stack:
        yield lambda behaviour: stack.enter_context(_in_thread(behaviour))


@contextmanager
def _in_thread(behaviour: Behaviour) -> Iterator[Stub]:
    started, stubs = threading.Event(), []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with serving(behaviour) as stub:
            stubs.append(stub)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield stubs[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
