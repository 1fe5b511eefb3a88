"""How much memory the machine has to give."""

from __future__ import annotations

import ctypes
import os

GIB = 1 << 30


def free_memory() -> int:
    """Bytes of memory that this process may still take, from the kernel's estimate."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return pages
    return pages


def return_freed() -> None:
    """Give freed memory back to the system where the C library keeps it (glibc): loading frees as much as it keeps."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return  # another C library, with habits of its own


def cpu_kv_budget() -> int:
    """A quarter of the free memory and 8 GiB at most: the machine has other work, too."""
    return min(free_memory() // 4, 8 * GIB)
