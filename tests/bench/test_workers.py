"""The same results in this process, on local cores and on a cluster."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from bench.workers import Workers
from libra.errors import LibraError


def square(number: int) -> int:
    return number * number


class StubRay(ModuleType):
    """As much of Ray as is asked for: tasks run when they are waited for, the last one first."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.address: str | None = "never"
        self.cancelled: list[Any] = []

    def init(self, address: str | None, **options: Any) -> None:
        if address == "ray://nowhere:1":
            raise ConnectionError("nobody answers")
        self.address = address

    def remote(self, function: Callable[[int], int]) -> Any:
        handle = ModuleType("handle")
        handle.remote = lambda task: (function, task)  # type: ignore[attr-defined]
        return handle

    def wait(self, pending: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return pending[-num_returns:], pending[:-num_returns]

    def get(self, reference: Any) -> int:
        function, task = reference
        return int(function(task))

    def cancel(self, reference: Any) -> None:
        self.cancelled.append(reference)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubRay:
    ray = StubRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def test_one_job_is_this_process_and_keeps_the_order() -> None:
    assert Workers().is_this_process
    assert list(Workers().run(square, [3, 1, 2])) == [9, 1, 4]


def test_local_cores_give_the_same() -> None:
    pytest.importorskip("joblib", reason="joblib is not installed")
    assert sorted(Workers(jobs=2).run(square, [3, 1, 2])) == [1, 4, 9]


def test_no_more_processes_than_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    started: list[int] = []

    class Parallel:
        def __init__(self, n_jobs: int, **options: Any) -> None:
            started.append(n_jobs)

        def __call__(self, calls: Any) -> list[Any]:
            return [function(*arguments) for function, arguments, _ in calls]

    monkeypatch.setattr(joblib, "Parallel", Parallel)
    assert list(Workers(jobs=10**6).run(square, [3, 1])) == [9, 1]
    assert list(Workers(jobs=10**6).run(square, [3])) == [9]
    assert list(Workers(jobs=2).run(square, [])) == []
    assert started == [2]


def test_a_cluster_gives_the_same(stub: StubRay) -> None:
    assert sorted(Workers(cluster="ray://head:10001").run(square, [3, 1, 2])) == [1, 4, 9]
    assert stub.address == "ray://head:10001"
    assert list(Workers(cluster="local").run(square, [])) == []
    assert stub.address is None


def test_what_is_left_when_nobody_wants_more_is_cancelled(stub: StubRay) -> None:
    results = Workers(cluster="local").run(square, [3, 1, 2])
    assert next(results) == 4
    results.close()  # type: ignore[attr-defined]
    assert len(stub.cancelled) == 2


def test_a_cluster_that_is_not_there_is_one_line(stub: StubRay) -> None:
    with pytest.raises(LibraError, match="nobody answers; start one"):
        list(Workers(cluster="ray://nowhere:1").run(square, [1]))


@pytest.mark.parametrize(("options", "package"), [({"jobs": 2}, "joblib"), ({"cluster": "local"}, "ray")])
def test_a_missing_package_is_named_before_anything_runs(
    options: dict[str, Any], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LibraError, match=f"needs {package}: pip install"):
        Workers(**options)


@pytest.mark.parametrize(("jobs", "cluster"), [(0, None), (2, "local")])
def test_contradictions_are_refused(jobs: int, cluster: str | None) -> None:
    with pytest.raises(LibraError, match="--jobs"):
        Workers(jobs, cluster)
