"""`python -m bench.soak`: a long run against `libra serve`, and whether the server stood it."""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.soak.report import RESULT_FILE, SAMPLES_FILE, result_document, write_result
from bench.soak.run import soak
from bench.soak.settings import SoakSettings
from libra.errors import LibraError

FAILED, FAULT = 1, 2


def main(
    model: Annotated[Path, typer.Argument(help="What `libra model make-tiny DIR` wrote.", metavar="DIR")],
    minutes: Annotated[float, typer.Option(help="How long to send traffic.")] = SoakSettings.minutes,
    load: Annotated[float, typer.Option(help="Share of the peak rate.")] = SoakSettings.load,
    peak_rps: Annotated[
        float | None, typer.Option(help="The peak in req/s; measured by a closed loop unless given.")
    ] = None,
    warmup_share: Annotated[
        float, typer.Option(help="Share of the run after which memory counts.")
    ] = SoakSettings.warmup_share,
    max_drift: Annotated[float, typer.Option(help="How much memory may grow, as a share.")] = SoakSettings.max_drift,
    deadline_s: Annotated[
        float, typer.Option("--deadline", help="Seconds after which a request hangs.")
    ] = SoakSettings.deadline_s,
    hbm_cache_gib: Annotated[float, typer.Option(help="As of libra serve.")] = SoakSettings.hbm_cache_gib,
    host_cache_gib: Annotated[float, typer.Option(help="As of libra serve.")] = SoakSettings.host_cache_gib,
    seed: Annotated[int, typer.Option(help="Seed of all traffic.")] = SoakSettings.seed,
    out: Annotated[Path, typer.Option(help="Directory for soak.csv and soak.json.")] = Path("results/server"),
) -> None:
    """Send checked, fresh, abandoned and malformed requests while adapters come and go; judge what comes back.

    Exit code 1 when a token is lost or wrong, a request hangs, memory grows, the pool does not add up at the end, or
    Ctrl-C or SIGTERM ends it early: what there is by then is written, marked as interrupted.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settings = SoakSettings(
            minutes=minutes,
            load=load,
            peak_rps=peak_rps,
            warmup_share=warmup_share,
            max_drift=max_drift,
            deadline_s=deadline_s,
            hbm_cache_gib=hbm_cache_gib,
            host_cache_gib=host_cache_gib,
            seed=seed,
        )
        result = soak(model, model / "adapters", settings, lambda line: typer.echo(line, err=True))
        document = result_document(result, settings, model.name)
        write_result(out, result, document)
    except LibraError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(FAULT)
    for breach in result.breaches:
        typer.echo(f"breach: {breach}", err=True)
    typer.echo(f"wrote {out / SAMPLES_FILE} and {out / RESULT_FILE}", err=True)
    if document["rss"]:
        typer.echo("RSS {first_mib:.0f} MiB {curve} {last_mib:.0f} MiB".format(**document["rss"]), err=True)
    typer.echo(json.dumps({name: document[name] for name in ("verdict", "rate_rps", "counts", "memory", "pool_check")}))
    if result.verdict != "PASSED":
        sys.exit(FAILED)


if __name__ == "__main__":
    typer.run(main)
