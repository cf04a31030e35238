"""The adapters that a server starts with."""

import logging
from pathlib import Path

import pytest

from libra.errors import LibraError
from libra.server.adapter_files import AdapterReader, lies_in, read_adapters
from tests.libra.model.directories import copy_of, edit_json
from tests.tiny_models import SPEC, TinyModel

READER = AdapterReader(SPEC, block_tokens=16, max_rank=8)


@pytest.fixture
def root(tiny_model: TinyModel, tmp_path: Path) -> Path:
    for name in ("good", "other"):
        copy_of(tiny_model.adapters["adapter-00"], tmp_path / "adapters" / name)
    return tmp_path / "adapters"


def link_in_a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def test_what_is_broken_is_left_out_with_a_warning(
    tiny_model: TinyModel, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(name: str) -> Path:
        return copy_of(tiny_model.adapters["adapter-01"], root / name)

    (add("no json") / "adapter_config.json").write_text("{")
    (add("nested") / "adapter_config.json").write_text('{"r": ' + "[" * 100_000)
    edit_json(add("steep") / "adapter_config.json", lora_alpha=10**400)
    edit_json(add("wide") / "adapter_config.json", r=9)
    link_in_a_circle(add("circle") / "adapter_model.safetensors")
    (add("cut") / "adapter_model.safetensors").write_bytes(b"")
    (root / "linked").symlink_to(copy_of(tiny_model.adapters["adapter-01"], tmp_path / "outside"))
    (root / "loop").symlink_to("loop")
    (root / "notes").mkdir()
    closed = add("closed") / "adapter_config.json"
    is_file = Path.is_file

    def look(path: Path) -> bool:
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", look)
    with caplog.at_level(logging.WARNING):
        assert list(read_adapters(READER, {}, (root,))) == ["good", "other"]
    told = [record.getMessage() for record in caplog.records]
    left_out = ("no json", "nested", "steep", "wide", "circle", "cut", "linked", "closed")
    assert len(told) == len(left_out)
    for name in left_out:
        assert sum(name in line for line in told) == 1, name


def test_one_that_is_named_must_be_there_and_be_good(root: Path) -> None:
    assert list(read_adapters(READER, {"mine": root / "good"}, ())) == ["mine"]
    with pytest.raises(LibraError, match="no such file"):
        read_adapters(READER, {"mine": root / "nowhere"}, (root,))
    with pytest.raises(LibraError, match="adapter name 'a b': use letters"):
        read_adapters(READER, {"a b": root / "good"}, ())


def test_a_name_stands_for_one_directory(tiny_model: TinyModel, root: Path, tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(root)
    named = {"good": tmp_path / "again" / "good"}
    assert list(read_adapters(READER, named, (root, tmp_path / "again"))) == ["good", "other"]
    with pytest.raises(LibraError, match=r"'good' stands for both .*other and .*good; rename one"):
        read_adapters(READER, {"good": root / "other"}, (root,))
    copy_of(tiny_model.adapters["adapter-01"], tmp_path / "second" / "other")
    with pytest.raises(LibraError, match="'other' stands for both"):
        read_adapters(READER, {}, (root, tmp_path / "second"))


def test_only_what_is_found_is_confined(root: Path) -> None:
    sources = read_adapters(READER, {"mine": root / "good"}, (root,))
    assert sources["mine"].roots == ()
    assert sources["other"].roots == (root.resolve(),)


def test_links_in_a_circle_lie_nowhere(root: Path) -> None:
    roots = (root.resolve(),)
    assert lies_in(root / "good", roots)
    (root / "loop").symlink_to("loop")
    for directory in (root / "loop", root / "\0", root / ".." / "elsewhere"):
        assert not lies_in(directory, roots)
