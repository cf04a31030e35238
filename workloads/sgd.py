"""Schema-Guided Dialogue (DSTC 8; arXiv 1909.05855): dialogs between a user and a virtual assistant, as JSON documents.

The services of a dialog stand for an adapter, sorted and joined with "+" where there are several, since an adapter is
constant along a session. Arrivals are drawn: nothing is recorded of when a dialog took place.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from workloads.agents import AGENTS
from workloads.dialog_reader import DialogReader
from workloads.dialogs import Dialog, Utterance, pair_up
from workloads.formats import ReadOptions
from workloads.rows import FieldFault
from workloads.sources import open_sources
from workloads.tables import JsonObject, document_rows, member

SPEAKERS = {"USER": True, "SYSTEM": False}
SCHEMA_FILE = "schema.json"  # describes the services; stands beside the dialogs of every split


def read_dialogs(paths: Sequence[Path], options: ReadOptions, skipped: Counter[str]) -> Iterator[Dialog]:
    """Reads ``dialogues_*.json`` of any split; of a folder or an archive, all of them."""
    for source in open_sources(paths, options.max_bytes, (".json",)):
        if source.path.name == SCHEMA_FILE:
            skipped["skipped_schema_files"] += 1
            continue
        for services, utterances in document_rows(source, _parse):
            yield Dialog(services, pair_up(utterances, skipped))


def _parse(row: JsonObject) -> tuple[str, list[Utterance]]:
    return _services(row), [_utterance(value, place) for place, value in enumerate(member(row, "turns", list))]


def _services(row: JsonObject) -> str:
    services = member(row, "services", list)
    if not services or any(type(service) is not str or not service for service in services):
        raise FieldFault("services", "must be a non-empty list of names")
    return "+".join(sorted(set(services)))


def _utterance(value: object, place: int) -> Utterance:
    if type(value) is not dict:
        raise FieldFault(f"turns[{place}]", "must be a JSON object")
    speaker, words = member(value, "speaker", str), member(value, "utterance", str)
    if speaker not in SPEAKERS:
        raise FieldFault(f"turns[{place}].speaker", f"is {speaker[:40]!r}; it must be USER or SYSTEM")
    return Utterance(SPEAKERS[speaker], words)


SGD = DialogReader(
    name="sgd",
    summary="task dialogs in text: services -> adapter, arrivals drawn",
    key_name="sets of services",
    scenario=AGENTS,
    dialogs=read_dialogs,
)
