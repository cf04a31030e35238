"""Independent runs on this process, on local cores (joblib), or on a cluster (Ray): the same results in any order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from libra.errors import LibraError

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """``jobs`` processes on this machine, or what the cluster at the address ``cluster`` has: ray://host:port, or
    ``local`` for Ray on this machine. Raises LibraError where the package for it is missing."""

    jobs: int = 1
    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise LibraError(f"--jobs must be at least 1, got {self.jobs}")
        if self.cluster is not None and self.jobs > 1:
            raise LibraError("--jobs is for local cores, --cluster for a cluster, which has its own: give one of them")
        if self.jobs > 1:
            _need("joblib", "--jobs above 1", "study")
        if self.cluster is not None:
            _need("ray", "--cluster", "cluster")

    @property
    def is_this_process(self) -> bool:
        """Whether tasks run here, one after the other."""
        return self.jobs == 1 and self.cluster is None

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """``function`` of each task, as they end. Raises what it raises, and LibraError for a cluster that is not
        there."""
        if self.cluster is not None:
            return _on_cluster(function, tasks, self.cluster)
        # Processes are started at once, whether there is anything for them to do or not.
        jobs = min(self.jobs, len(tasks))
        if jobs > 1:
            return _on_cores(function, tasks, jobs)
        return map(function, tasks)


def _on_cores(function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int) -> Iterator[Result]:
    from joblib import Parallel, delayed

    results: Iterator[Result] = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(
        delayed(function)(task) for task in tasks
    )
    return results


def _on_cluster(function: Callable[[Task], Result], tasks: Sequence[Task], address: str) -> Iterator[Result]:
    import ray

    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False, ignore_reinit_error=True)
    except (ConnectionError, ValueError) as error:
        raise LibraError(f"--cluster {address}: {error}; start one with `ray start --head`") from None
    remote = ray.remote(function)
    pending: list[Any] = [remote.remote(task) for task in tasks]
    try:
        while pending:
            (done, *_), pending = ray.wait(pending, num_returns=1)
            yield ray.get(done)
    finally:
        for reference in pending:
            ray.cancel(reference)


def _need(package: str, option: str, extra: str) -> None:
    try:
        import_module(package)
    except ImportError:
        raise LibraError(f"{option} needs {package}: pip install 'libra-lora[{extra}]'") from None
