"""Whether a command writes report.html, settled before its run; apart from the report's code so that `--help` stays
quick."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from libra.errors import LibraError

REPORT = "report.html"
_PACKAGES = ("jinja2", "matplotlib")

ReportFlag = Annotated[
    bool | None,
    typer.Option(
        "--report/--no-report",
        help=f"Write {REPORT} beside the other files of --out: tables and charts on one page.  [default: report]",
        show_default=False,
    ),
]


def wants_report(asked: bool | None, out: Path | None) -> bool:
    """Whether to write a report: wherever files are written, unless the user asked for none.

    Where a package is missing, a note on stderr says so. Raises LibraError when the user ``asked`` for a report that
    cannot be.
    """
    if asked and out is None:
        raise LibraError("--report needs --out: name the directory it is to be in")
    if asked:
        require_packages()
    if asked is False or out is None:
        return False
    missing = _missing_packages()
    if missing:
        typer.echo(f"note: {_how_to_install(missing)}; --no-report turns this note off", err=True)
    return not missing


def require_packages() -> None:
    """Raises LibraError where a package that reports need is not installed."""
    if missing := _missing_packages():
        raise LibraError(_how_to_install(missing))


def _missing_packages() -> list[str]:
    return [name for name in _PACKAGES if find_spec(name) is None]


def _how_to_install(missing: list[str]) -> str:
    return f"{REPORT} needs {' and '.join(missing)}; install with: pip install 'libra-lora[report]'"
