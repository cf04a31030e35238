"""Measures a model on this machine's CPU or GPU and fits a profile."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.progress import task_progress
from libra.engine.profile import Profile
from libra.errors import LibraError

if TYPE_CHECKING:
    from libra.engine.device import Device
    from libra.model.llama import LlamaModel


@dataclass(frozen=True)
class ProfileSettings:
    """``model`` is the name the profile gets. At least ``rounds`` samples of every point, and more for ``budget_s``."""

    model: str
    dtype: str
    block_tokens: int
    rounds: int
    budget_s: float


def run_profile(
    network: "LlamaModel", settings: ProfileSettings, device: "Device | None" = None, *, disable_tqdm: bool = False
) -> Profile:
    """Measures ``network`` on ``device``, None for the CPU engine, and fits. Raises LibraError for a model too small to
    fit anything to."""
    from bench.profiling.measure import measure
    from bench.profiling.points import CPU_SCALE, GPU_SCALE, step_points
    from bench.profiling.report import Subject, build_profile

    points = step_points(CPU_SCALE if device is None else GPU_SCALE, network.config.max_length)
    with task_progress(settings.rounds, "rounds", disable_tqdm=disable_tqdm) as progress:
        progress.tell("warming up")

        def show(rounds_done: int) -> None:
            if 0 < rounds_done <= settings.rounds:
                progress.advance("measuring steps and copies")
            else:
                progress.tell(f"round {rounds_done + 1}")

        found, batches = measure(
            network,
            settings.block_tokens,
            points,
            settings.rounds,
            settings.budget_s,
            show,
            device,
        )
    kind = "cpu" if device is None else device.type
    subject = Subject(Path(settings.model).name, network.spec, kind, settings.dtype, found.caption, found.fallback)
    return build_profile(subject, points, found, batches)


def check_target(path: Path) -> None:
    """Raises LibraError, before a long measurement, when ``path`` cannot become a file."""
    if path.is_dir():
        raise LibraError(f"--out {path}: is a directory; name a file such as {path / 'profile.json'}")
    parent = next(ancestor for ancestor in path.absolute().parents if ancestor.exists())
    if not parent.is_dir():
        raise LibraError(f"--out {path}: {parent} is a file; name a file in a directory")
