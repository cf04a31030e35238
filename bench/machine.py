"""What a run's results depend on besides its command: machine, versions, source revision."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

_PACKAGES = ("numpy", "pandas", "pyarrow", "xxhash")
_OPTIONAL_PACKAGES = ("torch", "triton")
_GIT_TIMEOUT_S = 10


def describe_machine() -> dict[str, str | int | None]:
    """CPU model, cores this process may use, RAM in bytes, operating system."""
    return {"cpu": cpu_model(), "cores": num_cores(), "ram_bytes": ram_bytes(), "os": platform.platform()}


def cpu_model() -> str:
    """The processor's marketing name, or its architecture where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Cores this process may run on, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ram_bytes() -> int | None:
    """Physical memory; None where the system does not tell."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def package_version(name: str) -> str | None:
    """The installed version, read without importing the package; None when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def package_versions() -> dict[str, str | None]:
    """Python and what computes results; torch and triton only where this process has loaded them."""
    names = [*_PACKAGES, *(name for name in _OPTIONAL_PACKAGES if name in sys.modules)]
    return {"python": platform.python_version(), **{name: package_version(name) for name in names}}


def source_revision() -> dict[str, str | bool | None]:
    """``commit`` of the source tree and whether it is ``dirty``; both None outside a git checkout. Changes below
    results/ do not count: a run writes them, and nothing is computed from them."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", ":/", ":(exclude,top)results") if commit else None
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    """Output of a git command on this source tree; None when git or the checkout is missing."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
