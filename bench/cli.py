"""The `libra` command."""

import errno
import os
import sys
from collections.abc import Sequence

import typer

from bench.bench_cli import bench
from bench.compare_cli import compare
from bench.doctor_cli import doctor
from bench.exit_codes import FAILED, FAULT, INTERRUPTED
from bench.goodput_flag import GoodputCommand
from bench.help_page import LibraCommand
from bench.model_cli import model_app
from bench.peak_cli import peak
from bench.policies_cli import policies
from bench.profile_cli import profile
from bench.replay.cli import replay
from bench.report_cli import report
from bench.reproduce_cli import reproduce
from bench.scenario import ScenarioCommand
from bench.serve_cli import ServeCommand, serve
from bench.sweep_cli import sweep
from bench.validate_cli import validate
from bench.workload_cli import workload_app
from libra import __version__
from libra.errors import LibraError, nearest_name

app = typer.Typer(
    help="Serve and study many LoRA adapters on one GPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(cls=ScenarioCommand)(bench)
app.command(cls=ScenarioCommand)(peak)
app.command(cls=LibraCommand)(sweep)
app.command(cls=LibraCommand)(compare)
app.command(cls=LibraCommand)(report)
app.command(cls=ServeCommand)(serve)
app.command(cls=GoodputCommand)(replay)
app.command(cls=LibraCommand)(reproduce)
app.command(cls=LibraCommand)(policies)
app.command(cls=LibraCommand)(profile)
app.command(cls=LibraCommand)(validate)
app.command(cls=LibraCommand)(doctor)
app.add_typer(workload_app, name="workload")
app.add_typer(model_app, name="model")

# A reader that has left (`| head`), and a disk that is full, out of quota or broken.
OUTPUT_FAULTS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"libra {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Serve and study many LoRA adapters on one GPU."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line. A fault the user can mend is one line on stderr and exit code 2, never a traceback."""
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="libra", standalone_mode=False)
        sys.stdout.flush()
    except (LibraError, typer.TyperException) as error:
        message = _usage_message(error) if isinstance(error, typer.TyperException) else str(error)
        typer.echo(f"error: {' '.join(message.split())}", err=True)
        sys.exit(FAULT)
    except OSError as error:
        # Files have names, and their faults are told where they are written; what has none is the output itself.
        if error.filename is not None or error.errno not in OUTPUT_FAULTS:
            raise
        # What is left in the buffer must not fail once more when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            sys.exit(FAILED)
        typer.echo(f"error: cannot write to stdout ({error.strerror}); send the output elsewhere", err=True)
        sys.exit(FAULT)
    if code == INTERRUPTED:
        typer.echo("interrupted", err=True)
    sys.exit(code or 0)


def _usage_message(error: typer.TyperException) -> str:
    """What is wrong with the command line; of a flag that does not exist, the nearest that does."""
    context = getattr(error, "ctx", None)
    # Only the error for an unknown flag has possibilities, which it finds by spelling alone: --rate is no --repeats.
    if context is None or not hasattr(error, "possibilities"):
        return error.format_message()
    name = str(getattr(error, "option_name", ""))
    flags = [flag for parameter in context.command.params for flag in parameter.opts if flag.startswith("--")]
    named = [flag for flag in flags if name.lstrip("-") in flag.split("-")]
    close = " or ".join(named) or nearest_name(name, flags)
    hint = f"did you mean {close}? " if close else ""
    return f"no such option {name}; {hint}`{context.command_path} --help` lists all"


if __name__ == "__main__":
    main()
