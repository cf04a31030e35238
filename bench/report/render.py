"""From saved runs to the text of report.html."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.report.figure import drawing
from bench.report.peak_study import peak_page
from bench.report.run_section import MAX_BINS, run_section
from bench.report.study import study_of
from bench.report.sweep_study import sweep_page
from bench.report.view import Page
from bench.report_options import REPORT, require_packages
from bench.saved_run import SavedRun, load_run
from bench.saved_study import SavedStudy, is_study, load_study
from bench.saved_summary import saved_conditions, saved_summaries
from bench.table import order_by_ttft
from libra.errors import LibraError
from workloads.files import replace_file

# A page is to open at once and to go into a mail.
MAX_BYTES = 1_000_000
_BINS_OF_A_PAGE = 3000  # memory charts of a page share them, at about 60 bytes each
_MIN_BINS = 40
_STUDY_PAGES = {"sweep": sweep_page, "peak": peak_page}


def write_report(path: Path, runs: Sequence[SavedRun]) -> None:
    """Renders ``runs`` into the file ``path``, which is replaced as a whole. Raises LibraError when it cannot be."""
    replace_file(path, [render(runs)])


def write_study_report(path: Path, study: SavedStudy) -> None:
    """The same for a sweep or a search for peak loads."""
    replace_file(path, [render_study(study)])


def renew_report(folder: Path, wanted: bool) -> None:
    """Puts the report of the run or study in ``folder`` beside it; an earlier one goes, whether ``wanted`` or not.

    Raises LibraError.
    """
    try:
        (folder / REPORT).unlink(missing_ok=True)
    except OSError as error:
        raise LibraError(f"{folder / REPORT}: cannot be replaced ({error.strerror}); delete it") from error
    if wanted and is_study(folder):
        write_study_report(folder / REPORT, load_study(folder))
    elif wanted:
        write_report(folder / REPORT, [load_run(folder)])


def render(runs: Sequence[SavedRun]) -> str:
    """The report of one run, or one that compares several.

    The text stays below ``MAX_BYTES``: runs whose sections would take it over are named instead of shown. Raises
    LibraError without the packages a report needs and for damaged runs.
    """
    require_packages()
    names, order = run_names([run.path for run in runs]), policy_order(runs)
    bins = min(MAX_BINS, max(_MIN_BINS, _BINS_OF_A_PAGE // max(sum(len(run.policies) for run in runs), 1)))
    with drawing():
        page = _page(runs, names, order)
        room = MAX_BYTES - len(_fill("page.html", page=page, sections=[]).encode())
        sections: list[str] = []
        for index, (run, name) in enumerate(zip(runs, names, strict=True)):
            section = run_section(run, name, f"run-{index + 1}", order, bins)
            text = _fill("run.html", run=section, is_alone=len(runs) == 1)
            room -= len(text.encode())
            if room < 0:
                page = replace(page, left_out=tuple(names[index:]))
                break
            sections.append(text)
    return _fill("page.html", page=page, sections=sections)


def render_study(study: SavedStudy) -> str:
    """The report of a sweep or of a search for peak loads. Raises LibraError."""
    require_packages()
    if study.kind not in _STUDY_PAGES:
        raise LibraError(f"{study.path}: is a study of kind {study.kind!r}, which this libra cannot render")
    with drawing():
        return _fill("page.html", page=_STUDY_PAGES[study.kind](study), sections=[])


def _page(runs: Sequence[SavedRun], names: Sequence[str], order: Sequence[str]) -> Page:
    titles = list(dict.fromkeys(saved_conditions(run).title() for run in runs))
    return Page(
        title=titles[0] if len(titles) == 1 else f"{len(runs)} runs compared",
        captions=tuple(dict.fromkeys(caption for run in runs for caption in run.meta["captions"])),
        study=study_of(runs, names, order) if len(runs) > 1 else None,
    )


def _fill(template: str, **values: Any) -> str:
    """The template with ``values``, everything but drawn charts and filled templates escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    folder = PackageLoader("bench.report", "template")
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["markup"] = Markup
    return environment.get_template(template).render(**values)


def run_names(paths: Sequence[Path]) -> list[str]:
    """What to call the runs: the last parts of their paths, as many as it takes to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(item[-depth:]) for item in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def policy_order(runs: Sequence[SavedRun]) -> list[str]:
    """All policies of all runs, best of the first run first: the order that fixes colours."""
    return list(dict.fromkeys(summary.policy for run in runs for summary in order_by_ttft(saved_summaries(run))))
