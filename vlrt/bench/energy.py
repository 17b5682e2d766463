"""What an answer costs in energy, where the machine tells.

CPUs of Intel and AMD count joules (RAPL, Linux: https://docs.kernel.org/power/powercap/powercap.html,
for root alone by default), NVIDIA's GPUs from Volta on as well (NVML, by `pip install
nvidia-ml-py`). A Mac tells its power to root: `powermetrics`, see its man page.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

__all__ = ["Energy", "Meter"]

POWERCAP = Path("/sys/class/powercap")
SAMPLE_MS = 100
SAMPLE = re.compile(r"\(([\d.]+)ms elapsed\)|^Combined Power \(.*\): (\d+) mW", re.MULTILINE)


class Meter(Protocol):
    """Counts from when it is made."""

    def stop(self) -> float | None:
        """Joules until now; None where that cannot be told."""
        ...


class Energy:
    """What a `with` block costs, of all that the machine tells of; a GPU where it computes.

    Attributes:
        joules: after the block; None where the machine tells nothing.
    """

    joules: float | None = None

    def __init__(self, device: str) -> None:
        kinds: list[Callable[[], Meter]] = [Rapl]
        if device == "cuda":
            kinds.append(Nvml)
        if sys.platform == "darwin" and os.geteuid() == 0 and shutil.which("powermetrics"):
            kinds.append(PowerMetrics)
        self._kinds, self._meters = kinds, list[Meter]()

    def __enter__(self) -> Energy:
        self._meters = [kind() for kind in self._kinds]
        return self

    def __exit__(self, *_: object) -> None:
        told = [spent for meter in self._meters if (spent := meter.stop()) is not None]
        self.joules = sum(told) if told else None


class Rapl:
    """The CPU's packages."""

    def __init__(self) -> None:
        self._start = self._counters()

    def stop(self) -> float | None:
        """A counter that has wrapped is set right by its range."""
        spent = 0.0
        for domain, now in self._counters().items():
            before = self._start.get(domain, now)
            wrapped = (_number(domain / "max_energy_range_uj") or 0) if now < before else 0
            spent += now - before + wrapped
        return spent / 1e6 if self._start else None

    @staticmethod
    def _counters() -> dict[Path, int]:
        domains = [d for d in POWERCAP.glob("intel-rapl:*") if d.name.count(":") == 1]
        return {d: now for d in domains if (now := _number(d / "energy_uj")) is not None}


class Nvml:
    """The first NVIDIA GPU, which is the one that onnxruntime takes."""

    def __init__(self) -> None:
        self._start = self._millijoules()

    def stop(self) -> float | None:
        """By the driver's counter."""
        now = self._millijoules()
        return None if now is None or self._start is None else (now - self._start) / 1e3

    @staticmethod
    def _millijoules() -> int | None:
        try:
            library: Any = import_module("pynvml")
        except ImportError:
            return None
        with suppress(library.NVMLError):  # no driver, or a GPU older than Volta
            library.nvmlInit()
            return library.nvmlDeviceGetTotalEnergyConsumption(
                library.nvmlDeviceGetHandleByIndex(0)
            )
        return None


class PowerMetrics:
    """A Mac's CPU, GPU and Neural Engine together: their mean power, for as long as it took."""

    def __init__(self) -> None:
        command = ["powermetrics", "-i", str(SAMPLE_MS), "--samplers", "cpu_power,gpu_power"]
        self._said = TemporaryFile("w+")  # noqa: SIM115  a pipe would fill, and stop it
        self._process = subprocess.Popen(command, stdout=self._said)
        self._started = time.perf_counter()

    def stop(self) -> float | None:
        """By the samples that were whole."""
        seconds = time.perf_counter() - self._started
        self._process.terminate()
        self._process.wait(timeout=20)
        with self._said as file:
            file.seek(0)
            watts = mean_power(file.read())
        return None if watts is None else watts * seconds


def mean_power(said: str) -> float | None:
    """Watts over all samples of what powermetrics prints, by their length; None without one."""
    length = millijoules = total = 0.0
    for elapsed, milliwatts in SAMPLE.findall(said):
        if elapsed:
            length = float(elapsed) / 1e3
        else:
            millijoules += length * float(milliwatts)
            total += length
    return millijoules / 1e3 / total if total else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
