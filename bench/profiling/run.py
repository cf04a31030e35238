"""Measures a model on this machine's CPU and fits a profile."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.progress import task_progress
from libra.engine.profile import Profile
from libra.errors import LibraError

if TYPE_CHECKING:
    from libra.model.llama import LlamaModel

# Longer contexts than this are extrapolated.
LONGEST_CONTEXT = 1024
RANKS = (8, 32)


@dataclass(frozen=True)
class ProfileSettings:
    """``model`` is the name the profile gets. At least ``rounds`` samples of every point, and more for ``budget_s``."""

    model: str
    dtype: str
    block_tokens: int
    rounds: int
    budget_s: float


def run_profile(network: "LlamaModel", settings: ProfileSettings, *, disable_tqdm: bool = False) -> Profile:
    """Measures ``network`` and fits. Raises LibraError for a model too small to fit anything to."""
    import torch

    from bench.profiling.measure import measure
    from bench.profiling.points import step_points
    from bench.profiling.report import Subject, build_profile
    from libra.engine.machine import processor_name

    points = step_points(min(LONGEST_CONTEXT, network.config.max_length), RANKS)
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
        )
    caption = f"measured on cpu ({processor_name()}, {torch.get_num_threads()} threads)"
    subject = Subject(Path(settings.model).name, network.spec, "cpu", settings.dtype, caption)
    return build_profile(subject, points, found, batches)


def check_target(path: Path) -> None:
    """Raises LibraError, before a long measurement, when ``path`` cannot become a file."""
    if path.is_dir():
        raise LibraError(f"--out {path}: is a directory; name a file such as {path / 'profile.json'}")
    parent = next(ancestor for ancestor in path.absolute().parents if ancestor.exists())
    if not parent.is_dir():
        raise LibraError(f"--out {path}: {parent} is a file; name a file in a directory")
