"""The engine in a process of its own: the same tokens, and everybody hears of its end."""

import asyncio
import multiprocessing
import signal
import subprocess
import sys
from functools import partial
from multiprocessing.process import BaseProcess

import pytest

from libra.engine.sequence import SamplingParams
from libra.errors import LibraError
from libra.request import Request
from libra.server.build import build_front, make_engine
from libra.server.engine_actions import check_cache
from libra.server.engine_client import EngineClient, EngineStopped, Stream, connect
from libra.server.engine_loop import EngineParts
from libra.server.engine_process import EngineProcess
from libra.server.messages import News
from tests.libra.server.running import engine_settings, settings
from tests.tiny_models import TinyModel


class Listener:
    """Gathers what comes of one request."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.end: asyncio.Future[News] = asyncio.get_running_loop().create_future()

    def __call__(self, _: Stream, news: News) -> None:
        self.tokens += news.tokens
        if news.record is not None or news.fault is not None:
            self.end.set_result(news)


def ask(engine: EngineClient, number: int, adapter: str | None, length: int) -> tuple[Stream, Listener]:
    listener = Listener()
    request = Request(number, engine.now_s(), adapter, length, prompt_token_ids=(3, 1, 4))
    stream = Stream(request, SamplingParams(), listener)
    engine.submit(stream)
    return stream, listener


def engine_processes() -> list[BaseProcess]:
    """Those of this test run; other tests' pools may still have workers."""
    return [child for child in multiprocessing.active_children() if child.name == "libra engine"]


def refuse() -> EngineParts:
    raise LibraError("there is no such device; use another")


def test_it_computes_the_same_and_dies_aloud(tiny_model: TinyModel) -> None:
    make = make_engine(build_front(settings(), engine_settings(tiny_model)))
    alone = make().engine
    for number, adapter in enumerate((None, "adapter-01")):
        alone.submit(Request(number, 0.0, adapter, 8, prompt_token_ids=(3, 1, 4)), SamplingParams())
    sequences = list(alone.scheduler.waiting)
    while len(alone.records) < 2:
        alone.step()
    alone.manager.memory.link.close()

    async def scenario() -> None:
        with EngineProcess(make) as process:
            engine = await connect(process.connection)
            assert engine.snapshots[-1].state["running"] == 0
            listeners = [ask(engine, number, adapter, 8)[1] for number, adapter in enumerate((None, "adapter-01"))]
            for listener, sequence in zip(listeners, sequences, strict=True):
                assert (await listener.end).fault is None
                assert listener.tokens == sequence.tokens[3:].tolist()
            stream, left = ask(engine, 2, None, 300)
            engine.abort(stream)
            assert (await left.end).fault == "aborted"
            await engine.call(check_cache)
            with pytest.raises(LibraError, match="nobody"):
                await engine.remove_adapter("nobody")
            _, unlucky = ask(engine, 3, None, 300)
            waiting = asyncio.create_task(engine.call(check_cache))
            (child,) = engine_processes()
            child.kill()
            assert "has ended" in str((await unlucky.end).fault)
            with pytest.raises(EngineStopped):
                await waiting
            with pytest.raises(EngineStopped, match="has ended"):
                ask(engine, 4, None, 1)
            assert not engine.streams

    asyncio.run(scenario())
    assert not engine_processes()


@pytest.mark.parametrize(
    ("make", "message"), [(refuse, "no such device"), (partial(exec, "raise SystemExit(3)"), "log says why")]
)
def test_an_engine_that_cannot_be_is_refused(make: "partial[EngineParts]", message: str) -> None:
    async def scenario() -> None:
        with EngineProcess(make) as process:
            await connect(process.connection)

    with pytest.raises(LibraError, match=message):
        asyncio.run(scenario())
    assert not engine_processes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_engine_in_the_making_ends_with_its_server(number: signal.Signals) -> None:
    program = (
        "import sys, time\n"
        "from functools import partial\n"
        "from libra.server.engine_process import EngineProcess\n"
        "make = partial(exec, 'import time; print(0, flush=True); time.sleep(60)')\n"
        "with EngineProcess(make): time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"0\n"
        server.send_signal(number)
        # The end of what both write to is the end of both.
        assert server.communicate(timeout=20) == (b"", None)
        assert server.returncode == -number


def test_the_event_loops_process_needs_no_torch() -> None:
    program = "import sys, bench.serve_cli, libra.server.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
