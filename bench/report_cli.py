"""The command `libra report`."""

from pathlib import Path
from typing import Annotated

import typer

from bench.report_options import REPORT


def report(
    directories: Annotated[
        list[Path],
        typer.Argument(help="What `libra bench` or `libra replay` wrote, or one sweep or peak search.", metavar="DIR"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help=f"File to write.  [default: {REPORT} in DIR; of several, in the current directory]"),
    ] = None,
) -> None:
    """Render saved runs as one self-contained page; several are compared."""
    from bench.documents import to_json
    from bench.report.render import write_report, write_study_report
    from bench.report_options import require_packages
    from bench.saved_run import load_run
    from bench.saved_study import is_study, load_study

    require_packages()
    first, *others = directories
    path = out or (Path(REPORT) if others else first / REPORT)
    if is_study(first) and not others:
        write_study_report(path, load_study(first))
    else:
        write_report(path, [load_run(directory) for directory in directories])
    size = path.stat().st_size
    typer.echo(to_json({"schema_version": 1, "report": str(path), "bytes": size, "directories": len(directories)}))
