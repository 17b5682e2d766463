"""What this machine is and can do: its parts, its limits, and what it tells while it works."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrt.bench.matmul import best, matmul_flops
from vlrt_runtime.cores import usable_cores
from vlrt_runtime.memory import private
from vlrt_runtime.session import ort
from vlrt_runtime.version import __version__

__all__ = [
    "cpu_model",
    "drop_cache",
    "environment",
    "gpu_memory",
    "mhz",
    "private_memory",
    "probe",
]


def environment() -> dict[str, Any]:
    """CPU, memory, system and versions."""
    distributions = ("onnxruntime", "onnxruntime-gpu", "numpy", "tokenizers", "pillow")
    return {
        "vlrt": __version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": _memory(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "providers": ort.get_available_providers(),
        "versions": {name: v for name in distributions if (v := _version(name))},
    }


def probe(seconds: float = 1.0) -> dict[str, float]:
    """Measured limits of all cores: `read_bytes_per_s` of memory, and those of `matmul_flops`."""
    threads = usable_cores()
    block = np.ones(1 << 26, np.float32)  # 256 MiB a thread: no cache holds them
    blocks = [block.copy() for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        read = best(lambda: list(pool.map(_read_once, blocks)), seconds)
    return {"read_bytes_per_s": threads * block.nbytes / read, **matmul_flops(seconds / 2)}


def _read_once(block: NDArray[np.float32]) -> float:
    return float(np.dot(block, block))


def drop_cache(files: list[Path]) -> bool:
    """Asks the system to forget files it holds in memory; whether it can be asked."""
    advise = getattr(os, "posix_fadvise", None)
    if advise is None:
        return False
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are not on disk yet would stay
            advise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True


def cpu_model() -> str:
    """As the system calls it; by py-cpuinfo where the system has no file for it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = ("model name", "Model", "Hardware")
        return next(
            line.split(":", 1)[1].strip() for n in names for line in lines if line.startswith(n)
        )
    except (OSError, StopIteration):
        library = _optional("cpuinfo")
        brand = library.get_cpu_info().get("brand_raw") if library else None
        return brand or platform.processor() or platform.machine()


def private_memory() -> int | None:
    """Private bytes of this process, now; by psutil where there is no /proc."""
    if (size := private()) is not None:
        return size
    library = _optional("psutil")
    return library.Process().memory_full_info().uss if library else None


def mhz() -> float | None:
    """The cores' mean frequency now."""
    found = [
        int(text) / 1e3
        for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
        if (text := _read(path))
    ]
    if not found:
        text = _read(Path("/proc/cpuinfo")) or ""
        found = [float(s.split(":")[1]) for s in text.splitlines() if s.startswith("cpu MHz")]
    return sum(found) / len(found) if found else None


def gpu_memory() -> int | None:
    """Bytes that this process holds on NVIDIA GPUs."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    rows = [line.split(",") for line in done.stdout.splitlines()]
    used = [
        int(r[1]) << 20 for r in rows if r[0].strip() == str(os.getpid()) and r[1].strip().isdigit()
    ]
    return sum(used) if used else None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _optional(module: str) -> Any:
    """A library of the bench extra; what it would tell is left out where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
