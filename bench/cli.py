"""The `libra` command."""

import sys
from collections.abc import Sequence

import typer

from bench.bench_cli import bench
from bench.compare_cli import compare
from bench.doctor_cli import doctor
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
from libra.errors import LibraError

app = typer.Typer(
    help="Serve and study many LoRA adapters on one GPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(cls=ScenarioCommand)(bench)
app.command(cls=ScenarioCommand)(peak)
app.command()(sweep)
app.command()(compare)
app.command()(report)
app.command(cls=ServeCommand)(serve)
app.command()(replay)
app.command()(reproduce)
app.command()(policies)
app.command()(profile)
app.command()(validate)
app.command()(doctor)
app.add_typer(workload_app, name="workload")
app.add_typer(model_app, name="model")

FAULT = 2
INTERRUPTED = 130


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
    except (LibraError, typer.TyperException) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        typer.echo(f"error: {' '.join(message.split())}", err=True)
        sys.exit(FAULT)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
