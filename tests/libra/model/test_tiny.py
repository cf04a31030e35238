"""The random models that stand in for a download."""

import hashlib
import threading
import time
from pathlib import Path

import pytest

from libra.errors import LibraError
from libra.model.llama import load_model
from libra.model.tiny import MIXED_TARGETS, TINY_SIZES, TinyAdapters, make_tiny
from libra.model.tokenizer import Tokenizer
from tests.tiny_models import SPEC, TinyModel


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_seed_fixes_every_file(tmp_path: Path) -> None:
    adapters = TinyAdapters(count=3, ranks=(2,), targets=MIXED_TARGETS)
    make_tiny(tmp_path / "one", SPEC, adapters, seed=1)
    make_tiny(tmp_path / "two", SPEC, adapters, seed=1)
    make_tiny(tmp_path / "three", SPEC, adapters, seed=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(tmp_path / "one")["model.safetensors"] != digests(tmp_path / "three")["model.safetensors"]


def test_a_directory_in_use_is_replaced_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "thesis.txt").write_text("ten years of work", encoding="utf-8")
    with pytest.raises(LibraError, match="is not empty"):
        make_tiny(target, SPEC, TinyAdapters(0))
    assert (target / "thesis.txt").exists()
    make_tiny(target, SPEC, TinyAdapters(0), force=True)
    assert not (target / "thesis.txt").exists()
    assert load_model(target).spec.name == "model"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LibraError, match="cannot be written"):
        make_tiny(tmp_path / "file" / "model", SPEC, TinyAdapters(0))


def test_sizes_are_what_their_names_say() -> None:
    assert 31.5e6 < TINY_SIZES["32m"].num_params < 32.5e6
    assert TINY_SIZES["tiny"].num_params < 0.5e6
    with pytest.raises(LibraError, match="did you mean '32m'"):
        TINY_SIZES["32"]


@pytest.mark.parametrize("text", ["the other tents", "Zürich, 8 °C\n", "", "a" * 50])
def test_text_survives_the_tokenizer(tiny_model: TinyModel, text: str) -> None:
    tokenizer = Tokenizer(tiny_model.directory)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.vocab_size == SPEC.vocab_size
    assert len(tokens) <= len(text.encode())


def test_other_threads_run_while_a_long_text_is_tokenised(tiny_model: TinyModel) -> None:
    tokenizer = Tokenizer(tiny_model.directory)
    thread = threading.Thread(target=tokenizer.encode, args=("tea at ten " * 30_000,))
    num_turns = 0
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        num_turns += 1
    assert num_turns > 20, "one or two while the work holds the interpreter, hundreds while it does not"


def test_merges_shorten_plain_text(tiny_model: TinyModel) -> None:
    assert len(Tokenizer(tiny_model.directory).encode("tea at ten")) < len("tea at ten")


def test_a_missing_or_broken_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(LibraError, match=r"tokenizer.json: no such file"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(LibraError, match=r"tokenizer.json: not a tokenizer"):
        Tokenizer(tmp_path)


def test_a_vocabulary_too_small_for_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LibraError, match="at least 257"):
        make_tiny(tmp_path / "model", type(SPEC)("x", 1, 64, 4, 2, 16, 176, 100), TinyAdapters(0))
    assert list(tmp_path.iterdir()) == []
