"""What the process asks of the machine it runs on, and the machine's name."""

import ctypes
import platform
from pathlib import Path

_MIB = 1 << 20


def keep_freed_memory() -> None:
    """Asks glibc to keep freed memory for the next allocation instead of handing it back to the system.

    Activations of a prefill step are megabytes each, which glibc maps and unmaps on every use: the page faults cost
    more than the element-wise operations themselves (a float32 step of 256 tokens takes a quarter longer). Applies to
    the whole process; elsewhere than on glibc it does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 * _MIB)
        libc.mallopt(trim_threshold, 512 * _MIB)


def processor_name() -> str:
    """The CPU's name as its maker gives it, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
