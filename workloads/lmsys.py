"""LMSYS: conversations of people with models, as parquet (LMSYS-Chat-1M, arXiv 2309.11998; Chatbot Arena
conversations, arXiv 2306.05685).

The model stands for an adapter. A row of LMSYS-Chat-1M is one conversation without a time: arrivals are drawn. A row
of the arena is a battle: two models, each with its own conversation, and one time, at which both sessions start here;
when their later turns came is not recorded and assumed. With ``--arrivals`` they start when its process says.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from libra.errors import LibraError
from libra.spec import GIB
from workloads.chatbot import CHATBOT
from workloads.dialog_reader import DialogReader
from workloads.dialogs import Dialog, Utterance, pair_up
from workloads.formats import ReadOptions
from workloads.rows import MAX_SECONDS, FieldFault, text
from workloads.sources import files_below
from workloads.tables import JsonObject, json_value, member

# (model, conversation) columns of the two layouts
LAYOUTS = (
    (("model_a", "conversation_a"), ("model_b", "conversation_b")),
    (("model", "conversation"),),
)
TIME_COLUMN = "tstamp"
ROLES = {"user": True, "assistant": False, "system": False}
BATCH_ROWS = 512


def read_dialogs(paths: Sequence[Path], options: ReadOptions, skipped: Counter[str]) -> Iterator[Dialog]:
    """Reads parquet files of either layout, a batch of rows at a time."""
    left = options.max_bytes
    for path in (file for entry in paths for file in files_below(entry, (".parquet",))):
        for number, row, row_bytes in _rows(path):
            left -= row_bytes
            if left < 0:
                raise LibraError(
                    f"the input is larger than {options.max_bytes / GIB:g} GiB after decompression; "
                    "raise --max-input-gib if you trust it"
                )
            try:
                yield from _conversations(row, skipped)
            except FieldFault as fault:
                raise LibraError(f"{path}, row {number}: {fault}") from None


def _rows(path: Path) -> Iterator[tuple[int, JsonObject, int]]:
    """(number from 1, row, its bytes in memory) of a parquet file. Raises LibraError for a file that is not one."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=_columns(path, file.schema_arrow.names)):
                row_bytes = batch.nbytes // max(len(batch), 1)
                for row in batch.to_pylist():
                    number += 1
                    yield number, row, row_bytes
    except FileNotFoundError:
        raise LibraError(f"cannot read {path}: no such file") from None
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise LibraError(
            f"{path}, after row {number}: cannot be read as parquet ({reason}); is it damaged or cut short?"
        ) from None


def _columns(path: Path, names: Sequence[str]) -> list[str]:
    for layout in LAYOUTS:
        columns = [column for pair in layout for column in pair]
        if set(columns) <= set(names):
            return [*columns, TIME_COLUMN] if TIME_COLUMN in names else columns
    raise LibraError(
        f"{path}: has neither the columns model and conversation nor model_a, conversation_a, model_b and "
        f"conversation_b; it has {', '.join(names)}"
    )


def _conversations(row: JsonObject, skipped: Counter[str]) -> Iterator[Dialog]:
    """One or two dialogs. Raises FieldFault."""
    start_s = _time(row[TIME_COLUMN]) if TIME_COLUMN in row else None
    for model, conversation in LAYOUTS[0 if "model_a" in row else 1]:
        yield Dialog(text(row, model), pair_up(_utterances(row, conversation), skipped), start_s)


def _time(value: object) -> float:
    if type(value) is not float and type(value) is not int:
        raise FieldFault(TIME_COLUMN, f"is {str(value)[:40]!r}; it must be seconds since 1970")
    if not (math.isfinite(value) and 0 <= value <= MAX_SECONDS):
        raise FieldFault(TIME_COLUMN, f"is {value}; it must be finite and 0 or more")
    return float(value)


def _utterances(row: JsonObject, column: str) -> list[Utterance]:
    messages: Any = row[column]
    if type(messages) is str:  # later releases of the arena keep the list as JSON text
        messages = json_value(messages)
    if type(messages) is not list or not messages:
        raise FieldFault(column, "must be a list of messages with role and content")
    return [_utterance(column, place, message) for place, message in enumerate(messages)]


def _utterance(column: str, place: int, message: object) -> Utterance:
    if type(message) is not dict:
        raise FieldFault(f"{column}[{place}]", "must be a message with role and content")
    role = member(message, "role", str)
    if role not in ROLES or (role == "system" and place > 0):
        raise FieldFault(f"{column}[{place}].role", f"is {role[:40]!r}; it must be user or assistant (system at first)")
    return Utterance(ROLES[role], member(message, "content", str))


LMSYS = DialogReader(
    name="lmsys",
    summary="chats in text: model -> adapter, arrivals recorded for the arena only",
    key_name="models",
    scenario=CHATBOT,
    dialogs=read_dialogs,
)
