"""What a soak makes of its end: whole, interrupted, or cut short by the server."""

import json
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from bench.soak import run
from bench.soak.process import Usage
from bench.soak.report import RESULT_FILE, SAMPLES_FILE, result_document, write_result
from bench.soak.run import Sample, SoakResult, soak
from bench.soak.settings import SoakSettings
from libra.errors import LibraError

SETTINGS = SoakSettings(minutes=1.0)


class Stopped:
    """A server that is there and does nothing; it ends with ``status``."""

    status = 0

    def __init__(self, model: Path, arguments: list[str]) -> None:
        self.said = ["ready"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def stop(self) -> int:
        return self.status


def soaked(monkeypatch: pytest.MonkeyPatch, end: BaseException | None, rss: list[float]) -> SoakResult:
    """A soak of a minute that saw ``rss`` in MiB, evenly spaced, and ended with ``end``."""

    async def under_way(one: run._Soak) -> None:
        one.peak_rps, one.rate_rps = 10.0, 8.0
        for number, mib in enumerate(rss):
            usage = Usage(mib, open_files=9, num_threads=8, processor_s=1.0)
            one.samples.append(Sample(60.0 * number / len(rss), 5 * number, 0, 1.0, usage))
            one.tally.count("checked")
        if end is not None:
            raise end

    monkeypatch.setattr(run, "ServedProcess", Stopped)
    monkeypatch.setattr(run._Soak, "run", under_way)
    return soak(Path("model"), Path("adapters"), SETTINGS, lambda line: None)


def test_ctrl_c_leaves_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = soaked(monkeypatch, KeyboardInterrupt(), [500.0] * 20)
    write_result(tmp_path, result, result_document(result, SETTINGS, "model"))
    document = json.loads((tmp_path / RESULT_FILE).read_text(encoding="utf-8"))
    assert document["verdict"] == "INTERRUPTED"
    assert document["counts"] == {"checked": 20}
    assert len((tmp_path / SAMPLES_FILE).read_text(encoding="utf-8").splitlines()) == 1 + 20


def test_ctrl_c_before_any_traffic_is_told_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = soaked(monkeypatch, KeyboardInterrupt(), [])
    write_result(tmp_path, result, result_document(result, SETTINGS, "model"))
    assert json.loads((tmp_path / RESULT_FILE).read_text(encoding="utf-8"))["rss"] is None


def test_a_server_that_dies_fails_the_soak_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    result = soaked(monkeypatch, LibraError("the server has died"), [500.0] * 20)
    assert (result.verdict, result.breaches) == ("FAILED", ["the soak ended early: the server has died"])
    with pytest.raises(LibraError, match="has died"):
        soaked(monkeypatch, LibraError("the server has died"), [])


def test_memory_counts_from_the_end_of_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    filling = [100.0, 200.0, 300.0, 400.0, 500.0]
    assert soaked(monkeypatch, None, filling + [500.0] * 15).verdict == "PASSED"
    result = soaked(monkeypatch, None, filling + [500.0] * 10 + [515.0] * 5)
    assert (result.verdict, result.breaches) == ("FAILED", ["memory grew by 3.00 %"])


def test_a_pool_that_does_not_add_up_is_a_breach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stopped, "status", 1)
    assert soaked(monkeypatch, None, [500.0] * 20).breaches == ["the server ended with 1: ready"]
