"""OPUS: parallel sentences (https://opus.nlpl.eu; OPUS-100, arXiv 2004.11867), one request a sentence and direction.

A directed language pair stands for an adapter: texts in n languages give n (n - 1) of them, and each line is asked once
in every direction. Layouts: Moses pairs of files that differ in their last suffix, the language (``X.de-en.de`` and
``X.de-en.en``), alone or in an archive; a table with one column a language (``X.de-en.tsv``, or a first row of language
codes); and tables of one language each with the text first (``mgsm_de.tsv``; MGSM, arXiv 2210.03057, whose problems are
here sentences to translate). Arrivals are drawn: nothing is recorded of when a sentence was translated.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path, PurePosixPath

from libra.errors import LibraError
from workloads.dialog_reader import DialogReader
from workloads.dialogs import Dialog, Exchange
from workloads.formats import ReadOptions
from workloads.sources import Source, open_sources
from workloads.tables import whole_lines
from workloads.translation import TRANSLATION

CODE = r"[a-z]{2,3}(?:_[A-Za-z]{2,4})?"
LANGUAGE = re.compile(CODE)
PAIR_IN_NAME = re.compile(rf"(?:^|[._-])({CODE})-({CODE})(?=$|[._-])")
LANGUAGE_IN_TABLE_NAME = re.compile(rf"_({CODE})$")
OTHER_SUFFIXES = frozenset({"ids", "xml", "txt", "md", "log", "json", "csv"})

Texts = dict[str, list[str]]  # language -> lines


def read_dialogs(paths: Sequence[Path], options: ReadOptions, skipped: Counter[str]) -> Iterator[Dialog]:
    """Reads Moses pairs, tables, and archives of them."""
    for corpus, texts in _corpora(paths, options, skipped).items():
        _check_aligned(corpus, texts)
        for source, target in permutations(texts, 2):
            pair = f"{source}-{target}"
            for asked, answer in zip(texts[source], texts[target], strict=True):
                if asked and answer:
                    yield Dialog(pair, (Exchange(asked, answer),))
                else:
                    skipped["skipped_pairs_with_an_empty_side"] += 1


def _corpora(paths: Sequence[Path], options: ReadOptions, skipped: Counter[str]) -> dict[str, Texts]:
    """The lines of each corpus by language; files of one corpus differ in the language of their names alone."""
    corpora: defaultdict[str, Texts] = defaultdict(dict)
    for source in open_sources(paths, options.max_bytes):
        corpus, language = _placed(source.path)
        if source.path.suffix == ".tsv":
            found = _table(source, language)
        elif language is not None:
            found = {language: [line.strip() for line in whole_lines(source)]}
        else:
            skipped["skipped_files_of_no_language"] += 1
            continue
        for code, lines in found.items():
            if corpora[corpus].setdefault(code, lines) is not lines:
                raise LibraError(f"{source.name}: the {code} text of {corpus} is given twice")
    return corpora


def _placed(path: PurePosixPath) -> tuple[str, str | None]:
    """The corpus a file belongs to, and the language that its name gives it, if any."""
    if path.suffix == ".tsv":
        found = LANGUAGE_IN_TABLE_NAME.search(path.stem)
        return (str(path), None) if found is None else (str(path.with_name(path.stem[: found.start()])), found[1])
    language, pair = path.suffix[1:], PAIR_IN_NAME.search(path.stem)
    if not LANGUAGE.fullmatch(language) or language in OTHER_SUFFIXES or (pair and language not in pair.groups()):
        return str(path), None
    return str(path.with_suffix("")), language


def _table(source: Source, language: str | None) -> Texts:
    """The columns of a table by language. Raises LibraError."""
    rows = ([cell.strip() for cell in line.rstrip("\r\n").split("\t")] for line in whole_lines(source))
    first = next(rows, [])
    pair = PAIR_IN_NAME.search(source.path.stem)
    named = len(first) > 1 and len(set(first)) == len(first) and all(LANGUAGE.fullmatch(cell) for cell in first)
    if named:
        languages, start = first, []
    elif language is not None:
        languages, start = [language], [first]
    elif pair is not None:
        languages, start = list(pair.groups()), [first]
    else:
        raise LibraError(
            f"{source.name}, row 1: the columns' languages are unknown; make it a row of codes, such as de and en, "
            "or name the file like corpus.de-en.tsv"
        )
    texts: Texts = {code: [] for code in languages}
    for number, row in enumerate([*start, *rows], start=2 - len(start)):
        if len(row) < len(languages) or (named and len(row) != len(languages)):
            raise LibraError(f"{source.name}, row {number}: has {len(row)} columns for {', '.join(languages)}")
        for code, cell in zip(languages, row, strict=False):
            texts[code].append(cell)
    return texts


def _check_aligned(corpus: str, texts: Texts) -> None:
    counted = {code: len(lines) for code, lines in texts.items()}
    if len(counted) < 2:
        raise LibraError(
            f"{corpus}: there is text in {', '.join(counted)} alone; give the file of another language too"
        )
    if len(set(counted.values())) > 1:
        told = ", ".join(f"{code} {count:,}" for code, count in counted.items())
        raise LibraError(f"{corpus}: the languages have different numbers of lines ({told}); is one cut short?")


OPUS = DialogReader(
    name="opus",
    summary="parallel sentences: directed language pair -> adapter, arrivals drawn",
    key_name="directed language pairs",
    scenario=TRANSLATION,
    dialogs=read_dialogs,
)
