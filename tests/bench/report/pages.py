"""Saved runs to render, and a page as a parser sees it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

from bench.documents import RunInfo
from bench.metrics import MeasureOptions, summarise
from bench.output import write_run
from bench.saved_run import SavedRun, load_run
from bench.slo import Objectives
from libra.engine.record import RunResult
from tests.bench.fabricate import CONDITIONS, POLICIES, plausible_run

# Elements that have no end.
_HEADINGS = frozenset({"h1", "h2", "h3"})
VOID = frozenset({"meta", "link", "br", "hr", "img", "input", "path", "rect"})


def some_runs(num_policies: int = 2, seeds: Sequence[int] = (0, 1), num_requests: int = 60) -> list[RunResult]:
    """Fabricated runs of the first ``num_policies`` policies."""
    return [plausible_run(style, seed, num_requests) for style in POLICIES[:num_policies] for seed in seeds]


def save(
    path: Path,
    results: Sequence[RunResult],
    *,
    partial: bool = False,
    rate: float = 5.0,
    warnings: Sequence[str] = (),
    objectives: Objectives = Objectives(),
) -> SavedRun:
    """Writes the results as `libra bench` does and reads them back."""
    policies = dict.fromkeys(result.policy for result in results)
    options = MeasureOptions(objectives=objectives)
    summaries = [summarise([item for item in results if item.policy == policy], options) for policy in policies]
    info = RunInfo(
        command="libra bench --workload chatbot",
        conditions=replace(CONDITIONS, request_rate=rate),
        settings={"workload": "chatbot", "request_rate": rate},
        trace_sha256={result.seed: f"trace of seed {result.seed}" for result in results},
        warnings=warnings,
        objectives_ms=objectives.limits(),
    )
    write_run(path, results, summaries, info, partial=partial)
    return load_run(path)


@dataclass
class Parsed(HTMLParser):
    """A page: how often each element occurs, its text, tables as rows of cells by caption, and what charts say."""

    page: str
    elements: Counter[str] = field(default_factory=Counter)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _caption: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.page)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def sections(self) -> list[str]:
        """The headings, the page's title first."""
        return [heading.strip() for heading in self.headings]

    @property
    def chart_labels(self) -> list[str]:
        """What a screen reader says of each chart."""
        return [value for tag, name, value in self.attributes if (tag, name) == ("svg", "aria-label")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag in _HEADINGS:
            self.headings.append("")
        elif tag == "figcaption":
            self._caption = ""
        elif tag == "table":
            self.tables[self._caption] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            return
        self.texts.append(data)
        if _HEADINGS & set(self._open):
            self.headings[-1] += data
        if "figcaption" in self._open:
            self._caption += data
        if {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data

    @property
    def _rows(self) -> list[list[str]]:
        return self.tables[self._caption]
