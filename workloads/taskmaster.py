"""Taskmaster 1 to 4: task dialogs of Google Research (arXiv 1909.05358, 2012.12458, 2403.10704), as JSON documents.

A scene stands for an adapter: the task of ``instruction_id`` without its number (TM-1, TM-2: "restaurant-table-2" is
"restaurant-table"), or ``vertical`` and ``scenario``, the title of the instructions (TM-3, TM-4, which have one
vertical each). Arrivals are drawn: nothing is recorded of when a dialog took place.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from workloads.agents import AGENTS
from workloads.dialog_reader import DialogReader
from workloads.dialogs import Dialog, Utterance, pair_up
from workloads.formats import ReadOptions
from workloads.rows import FieldFault, text
from workloads.sources import open_sources
from workloads.tables import JsonObject, document_rows, member

SPEAKERS = {"user": True, "assistant": False}
NUMBER = re.compile(r"[-_ ]?\d+\w*$")


def read_dialogs(paths: Sequence[Path], options: ReadOptions, skipped: Counter[str]) -> Iterator[Dialog]:
    """Reads the data files of any of the four: a list of dialogs, or one dialog (TM-1's sample)."""
    for source in open_sources(paths, options.max_bytes, (".json",)):
        for scene, utterances in document_rows(source, _parse):
            yield Dialog(scene, pair_up(utterances, skipped))


def _parse(row: JsonObject) -> tuple[str, list[Utterance]]:
    return _scene(row), [_utterance(value, place) for place, value in enumerate(member(row, "utterances", list))]


def _scene(row: JsonObject) -> str:
    if "instruction_id" in row:
        identifier = text(row, "instruction_id")
        return NUMBER.sub("", identifier) or identifier
    if "scenario" not in row:
        raise FieldFault("instruction_id", "(or 'scenario') is missing; is this a data file of Taskmaster?")
    return f"{text(row, 'scenario')} ({text(row, 'vertical')})"


def _utterance(value: object, place: int) -> Utterance:
    if type(value) is not dict:
        raise FieldFault(f"utterances[{place}]", "must be a JSON object")
    speaker, words = member(value, "speaker", str), member(value, "text", str)
    if speaker.lower() not in SPEAKERS:
        raise FieldFault(f"utterances[{place}].speaker", f"is {speaker[:40]!r}; it must be user or assistant")
    return Utterance(SPEAKERS[speaker.lower()], words)


TASKMASTER = DialogReader(
    name="taskmaster",
    summary="task dialogs in text: scene -> adapter, arrivals drawn",
    key_name="scenes",
    scenario=AGENTS,
    dialogs=read_dialogs,
)
