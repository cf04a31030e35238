"""What open streams cost that have nothing to send.

`python -m bench.micro.idle_streams DIR` on an idle machine; DIR is what `libra model make-tiny DIR` wrote. Prints the
share of one core that a server uses with no connection, with streams that wait for an adapter behind a very slow link,
and with as many connections kept open after their answers. Writes results/server/idle_streams.json.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from bench.machine import describe_machine
from bench.soak.process import ServedProcess

MAX_SHARE = 0.05
# At this rate even the smallest adapter is under way for minutes.
_SLOW_LINK_GBPS = 1e-7
_SETTLE_S = 3.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def measure(server: ServedProcess, adapter: str, model: str, streams: int, seconds: float) -> dict[str, float]:
    """Shares of one core, each over ``seconds``."""
    shares = {"no connections": await _share(server, seconds)}
    done = [await _send(server, model) for _ in range(streams)]
    for reader, _ in done:
        await reader.readuntil(b"data: [DONE]\n\n")
    shares["answered and kept open"] = await _share(server, seconds)
    await _close(done)
    waiting = [await _send(server, adapter) for _ in range(streams)]
    shares["waiting for an adapter"] = await _share(server, seconds)
    if any(reader.at_eof() for reader, _ in waiting):
        raise RuntimeError("a stream ended that was to wait")
    await _close(waiting)
    return shares


async def _share(server: ServedProcess, seconds: float) -> float:
    await asyncio.sleep(_SETTLE_S)
    started_s, before = time.monotonic(), server.usage()
    await asyncio.sleep(seconds)
    return round((server.usage().processor_s - before.processor_s) / (time.monotonic() - started_s), 4)


async def _send(server: ServedProcess, model: str) -> Connection:
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"model": model, "prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True, "stream": True})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write((head + body).encode())
    await writer.drain()
    return reader, writer


async def _close(connections: list[Connection]) -> None:
    for _, writer in connections:
        writer.close()
    await asyncio.sleep(0)


def main(
    directory: Path,
    streams: Annotated[int, typer.Option(help="Connections of each kind.")] = 200,
    seconds: Annotated[float, typer.Option(help="How long to watch each.")] = 20.0,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = Path(
        "results/server/idle_streams.json"
    ),
) -> None:
    """Measures and prints one JSON line. Exit code 1 when open streams use more than they may."""
    adapter = min(path.name for path in (directory / "adapters").iterdir())
    arguments = ["--lora-dir", str(directory / "adapters"), "--link-gbps", f"{_SLOW_LINK_GBPS}"]
    with ServedProcess(directory, arguments) as server:
        shares = asyncio.run(measure(server, adapter, directory.resolve().name, streams, seconds))
    typer.echo(json.dumps(shares))
    if out is not None:
        document = {"shares_of_a_core": shares, "streams": streams, "machine": describe_machine()}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if max(shares.values()) > MAX_SHARE:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
