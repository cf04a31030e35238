"""What the process asks of the machine it runs on, and the machine's name."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MIB = 1 << 20
# What glibc calls its settings (malloc.h), and from what size on it maps each allocation by itself.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _NUM_HEAPS = -1, -3, -8
_MAPPED_BYTES, _MAPPED_CODE_BYTES = 32 * _MIB, 128 << 10


# Products of one shape that oneDNN keeps compiled. Its own 1,024 hold every row count a server has ever met.
_COMPILED_PRODUCTS = 256


def steady_memory() -> None:
    """Asks glibc to keep freed memory for the next allocation instead of handing it back to the system, and both glibc
    and oneDNN to keep no more than they use. Call it before the first product is computed.

    Activations of a prefill step are megabytes each, which glibc maps and unmaps on every use: the page faults cost
    more than the element-wise operations themselves (a float32 step of 256 tokens takes a quarter longer). One heap for
    all threads, since what one of them frees in a heap of its own no other can use. Applies to the whole process;
    elsewhere than on glibc the heap stays as it is.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_COMPILED_PRODUCTS))
    _set_malloc(_MMAP_THRESHOLD, _MAPPED_BYTES)
    _set_malloc(_TRIM_THRESHOLD, 512 * _MIB)
    _set_malloc(_NUM_HEAPS, 1)


@contextmanager
def compiling() -> Iterator[None]:
    """While products are compiled ahead: what oneDNN allocates is mapped by itself. Of the half megabyte that each
    product reserves for its code it writes a few pages; in the heap the rest would be memory that others have used.
    Afterwards it is as ``steady_memory`` has it."""
    _set_malloc(_MMAP_THRESHOLD, _MAPPED_CODE_BYTES)
    try:
        yield
    finally:
        _set_malloc(_MMAP_THRESHOLD, _MAPPED_BYTES)


def _set_malloc(setting: int, value: int) -> None:
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(setting, value)


def processor_name() -> str:
    """The CPU's name as its maker gives it, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
