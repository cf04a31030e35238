"""The list of published data sets."""

import re

from workloads.data_sources import DATA_SOURCES
from workloads.registry import FORMATS


def test_every_source_has_a_reader_and_every_published_format_a_source() -> None:
    formats = {source.trace_format for source in DATA_SOURCES}
    assert formats <= set(FORMATS)
    assert set(FORMATS) - formats == {"openai-log"}  # our own server's log is not published


def test_entries_are_well_formed() -> None:
    assert len({source.name for source in DATA_SOURCES}) == len(DATA_SOURCES)
    for source in DATA_SOURCES:
        assert source.url.startswith("https://")
        for file in source.files:
            assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            assert (file.num_bytes is None) == (file.sha256 is None)


def test_a_size_is_known_only_where_all_files_are() -> None:
    by_name = {source.name: source.num_bytes for source in DATA_SOURCES}
    assert by_name["BurstGPT"] == 52_283_111 + 144_819_209
    assert by_name["Mooncake"] is None
    assert by_name["ServeGen"] is None
