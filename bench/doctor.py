"""What this machine can run: packages, hardware, devices."""

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from bench.machine import cpu_model, num_cores, package_version, ram_bytes
from libra.spec import DEVICES, GIB

# Lowest versions, as pyproject.toml states them (a test compares the two).
PYTHON_VERSIONS = ("3.11", "3.14")
CORE_PACKAGES = {
    "numpy": "1.26",
    "pandas": "2.2",
    "pyarrow": "16",
    "rich": "13.7",
    "typer": "0.29",
    "xxhash": "3.4",
}
ENGINE_PACKAGES = {"safetensors": "0.4.5", "tokenizers": "0.20", "torch": "2.6", "triton": "3.2"}
# Only the tests of the real engine use these.
REFERENCE_PACKAGES = {"transformers": "4.48", "peft": "0.14"}

_INSTALL_ENGINE = "pip install 'libra-lora[engine]'"
_LEAST_WIDTH = 80
_LEAST_FREE_DISK = GIB
_PROBE_TIMEOUT_S = 120
# In a process of its own: importing a broken torch can raise anything or end the process.
_TORCH_PROBE = """
import json, torch
devices = []
for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    device = torch.cuda.get_device_properties(index)
    devices.append({"name": device.name, "bytes": device.total_memory, "capability": [device.major, device.minor]})
print(json.dumps({"threads": torch.get_num_threads(), "cuda": torch.version.cuda, "devices": devices}))
"""


class Status(Enum):
    """How a check went. OPTIONAL: something is missing that only some commands need."""

    OK = "ok"
    OPTIONAL = "optional"
    FAULT = "fault"


@dataclass(frozen=True)
class Check:
    """One line of the report; ``detail`` says what was found and, unless it is ok, how to mend it."""

    section: str
    name: str
    status: Status
    detail: str


@dataclass(frozen=True)
class TorchReport:
    """What torch says of itself. ``fault`` is why it cannot be used, "" when it can."""

    fault: str
    threads: int = 0
    cuda_build: str | None = None
    gpus: tuple[str, ...] = ()


def examine(directory: Path, terminal_width: int) -> list[Check]:
    """All checks, in the order of the report. ``directory`` is where results would go. Raises nothing."""
    torch = probe_torch()
    core = [_package("core", name, least, Status.FAULT) for name, least in CORE_PACKAGES.items()]
    engine = [_package("real engine", name, least, Status.OPTIONAL) for name, least in ENGINE_PACKAGES.items()]
    reference = [_package("reference", name, least, Status.OPTIONAL) for name, least in REFERENCE_PACKAGES.items()]
    return [
        _python(),
        *core,
        *engine,
        _torch(torch),
        *reference,
        *_machine(directory),
        *_devices(engine, torch),
        _terminal(terminal_width),
    ]


def probe_torch() -> TorchReport:
    """Imports torch in another process and asks for threads and GPUs; never raises, whatever state torch is in."""
    if package_version("torch") is None:
        return TorchReport("torch is not installed")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TORCH_PROBE], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return TorchReport(f"torch could not be tried ({type(error).__name__})")
    if done.returncode != 0:
        last_words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return TorchReport(f"import torch fails: {last_words[-1][:120]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    gpus = tuple(
        f"{gpu['name']} ({gpu['bytes'] / GIB:.0f} GiB, compute {gpu['capability'][0]}.{gpu['capability'][1]})"
        for gpu in found["devices"]
    )
    return TorchReport("", found["threads"], found["cuda"], gpus)


def is_older(version: str, least: str) -> bool:
    """Compares release numbers; pre-release and build tags such as rc1 and +cpu do not count."""
    return _release(version) < _release(least)


def _release(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in numbers.group().split(".")] if numbers else [0]
    # 1.26 and 1.26.0 are one release.
    return tuple(parts + [0] * (4 - len(parts)))


def _python() -> Check:
    version, (least, below) = platform.python_version(), PYTHON_VERSIONS
    fits = not is_older(version, least) and is_older(version, below)
    detail = version if fits else f"{version}; use {least} or newer, below {below}"
    return Check("core", "python", Status.OK if fits else Status.FAULT, detail)


def _package(section: str, name: str, least: str, when_missing: Status) -> Check:
    version = package_version(name)
    install = f"pip install '{name}>={least}'" if section != "real engine" else _INSTALL_ENGINE
    if version is None:
        return Check(section, name, when_missing, f"missing; {install}")
    if is_older(version, least):
        return Check(section, name, when_missing, f"{version} is too old, {least} is needed; {install}")
    return Check(section, name, Status.OK, version)


def _torch(torch: TorchReport) -> Check:
    if torch.fault:
        return Check("real engine", "torch at work", Status.OPTIONAL, torch.fault)
    build = f"CUDA {torch.cuda_build} build" if torch.cuda_build else "CPU build"
    return Check("real engine", "torch at work", Status.OK, f"{build}, {torch.threads} threads")


def _machine(directory: Path) -> Sequence[Check]:
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free, ram = shutil.disk_usage(existing).free, ram_bytes()
    disk = f"{free / GIB:.1f} GiB free"
    roomy = free >= _LEAST_FREE_DISK
    return (
        Check("machine", "processor", Status.OK, f"{cpu_model()}, {num_cores()} cores usable"),
        Check("machine", "memory", Status.OK, "unknown" if ram is None else f"{ram / GIB:.1f} GiB"),
        Check(
            "machine",
            "disk",
            Status.OK if roomy else Status.OPTIONAL,
            disk if roomy else f"{disk}; results of long runs may not fit",
        ),
    )


def _devices(packages: Sequence[Check], torch: TorchReport) -> Sequence[Check]:
    """One check per value of --device, with the reason why one does not work here."""
    cpu_faults = _faults(packages, ("torch", "safetensors", "tokenizers"), torch)
    cuda_faults = _faults(packages, ("torch", "safetensors", "tokenizers", "triton"), torch)
    if not torch.fault and not torch.gpus:
        cuda_faults.append("no CUDA device" if torch.cuda_build else "this torch is a CPU build")
    simulated = ", ".join(f"sim:{name}" for name in DEVICES)
    return (
        Check("devices", "--device sim:…", Status.OK, simulated),
        _device("--device cpu", cpu_faults, f"{torch.threads} threads"),
        _device("--device cuda", cuda_faults, "; ".join(torch.gpus)),
    )


def _faults(packages: Sequence[Check], needed: Sequence[str], torch: TorchReport) -> list[str]:
    faults = [f"{check.name} {check.detail}" for check in packages if check.name in needed and not _is_ok(check)]
    broken = torch.fault and package_version("torch") is not None
    return [*faults, torch.fault] if broken else faults


def _device(name: str, faults: Sequence[str], detail: str) -> Check:
    return Check("devices", name, Status.OPTIONAL if faults else Status.OK, "; ".join(faults) or detail)


def _is_ok(check: Check) -> bool:
    return check.status is Status.OK


def _terminal(width: int) -> Check:
    if width >= _LEAST_WIDTH:
        return Check("terminal", "width", Status.OK, f"{width} columns")
    return Check("terminal", "width", Status.OPTIONAL, f"{width} columns; tables are split below {_LEAST_WIDTH}")
