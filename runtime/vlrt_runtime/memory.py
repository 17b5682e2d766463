"""How much memory this process holds, where the system says so."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

__all__ = ["give_back", "peak_rss", "private"]


def peak_rss() -> int | None:
    """The most bytes that were resident at once, shared and mapped pages included."""
    try:  # Linux's ru_maxrss begins with what the parent held when it started this process
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows has no such module
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def private() -> int | None:
    """Bytes that would be free if this process ended: its private pages, now (USS)."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def give_back() -> None:
    """Has the allocator return what is free: glibc keeps most of a closed graph otherwise."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
