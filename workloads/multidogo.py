"""MultiDoGO: dialogs of customers and agents in six domains (Peskov et al., EMNLP 2019), as tab-separated tables.

The domain stands for an adapter: the file's name, or its folder's where the file is a split (train, dev, test). The
unannotated table has both sides. The annotated splits have the customer's turns alone: numbers that follow each other
are one turn, a number left out is where the agent spoke, and the lengths of the agent's answers are drawn. Arrivals are
drawn: nothing is recorded of when a dialog took place.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from workloads.agents import AGENTS
from workloads.dialog_reader import DialogReader
from workloads.dialogs import Dialog, Exchange, Utterance, pair_up
from workloads.formats import ReadOptions
from workloads.rows import FieldFault
from workloads.sources import Source, open_sources
from workloads.tables import Ordered, csv_rows, finite_number

COLUMNS = ("conversationId", "turnNumber", "utterance")
ROLE_COLUMN = "authorRole"
ROLES = {"": True, "customer": True, "agent": False}
SPLITS = ("train", "dev", "test")


class _Line(NamedTuple):
    """A row: ``both`` says that the table has the agent's side too."""

    dialog: str
    turn: float
    text: str
    by_user: bool
    both: bool


def read_dialogs(paths: Sequence[Path], options: ReadOptions, skipped: Counter[str]) -> Iterator[Dialog]:
    """Reads the unannotated tables and the annotated splits, at turn or sentence level."""
    for source in open_sources(paths, options.max_bytes, (".tsv",)):
        domain = _domain(source.path)
        for lines in _conversations(source):
            if lines[0].both:
                yield Dialog(domain, pair_up((Utterance(line.by_user, line.text) for line in lines), skipped))
            else:
                yield Dialog(domain, _customer_turns(lines, skipped))


def _domain(path: PurePosixPath) -> str:
    stem = path.name.partition(".")[0]
    return path.parent.name if stem in SPLITS and path.parent.name else stem


def _conversations(source: Source) -> Iterator[list[_Line]]:
    """The rows of each conversation, in order of first appearance."""
    orders: dict[str, Ordered] = {}
    conversations: dict[str, list[_Line]] = {}

    def parse(fields: Sequence[str]) -> _Line:
        dialog, turn, words, role = fields
        if not dialog:
            raise FieldFault("conversationId", "is empty")
        if role not in ROLES:
            raise FieldFault(ROLE_COLUMN, f"is {role[:40]!r}; it must be customer or agent")
        number = finite_number("turnNumber", turn)
        orders.setdefault(dialog, Ordered("turnNumber")).check(number)
        return _Line(dialog, number, words, ROLES[role], bool(role))

    for line in csv_rows(source, COLUMNS, parse, delimiter="\t", optional=(ROLE_COLUMN,)):
        conversations.setdefault(line.dialog, []).append(line)
    yield from conversations.values()


def _customer_turns(lines: Sequence[_Line], skipped: Counter[str]) -> list[Exchange]:
    turns: list[list[str]] = []
    previous = -2.0
    for line in lines:
        if not line.text.strip():
            skipped["skipped_empty_utterances"] += 1
            continue
        if line.turn - previous > 1 or not turns:
            turns.append([])
        turns[-1].append(line.text)
        previous = line.turn
    return [Exchange("\n".join(texts), None) for texts in turns]


MULTIDOGO = DialogReader(
    name="multidogo",
    summary="service dialogs in text: domain -> adapter, arrivals drawn",
    key_name="domains",
    scenario=AGENTS,
    dialogs=read_dialogs,
)
