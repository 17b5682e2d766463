"""Energy by counters and tools that are made up here, in the form the real ones have."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from vlrt.bench import energy
from vlrt.bench.energy import Energy, Nvml, PowerMetrics, Rapl, mean_power

# As powermetrics prints, cut to what matters.
SAMPLES = """\
*** Sampled system activity (Mon Nov 30 10:00:00 2026 +0000) (100.00ms elapsed) ***

**** Processor usage ****

CPU Power: 1800 mW
GPU Power: 200 mW
ANE Power: 0 mW
Combined Power (CPU + GPU + ANE): 2000 mW

*** Sampled system activity (Mon Nov 30 10:00:00 2026 +0000) (300.00ms elapsed) ***

Combined Power (CPU + GPU + ANE): 6000 mW
"""


@pytest.fixture
def domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of RAPL, with a part of it, which is counted in it already."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    for name in ("intel-rapl:0", "intel-rapl:0:0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("1000000\n")
        (tmp_path / name / "max_energy_range_uj").write_text("5000000\n")
    return tmp_path / "intel-rapl:0"


@pytest.mark.parametrize(("now", "joules"), [("3500000\n", 2.5), ("500000\n", 4.5)])
def test_the_cpu_counts_and_its_counter_wraps(domain: Path, now: str, joules: float):
    with Energy("cpu") as energy:
        (domain / "energy_uj").write_text(now)
    assert energy.joules == pytest.approx(joules)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_counters_for_root_alone_are_none(domain: Path):
    for path in domain.parent.glob("*/energy_uj"):
        path.chmod(0)
    assert Rapl().stop() is None


def test_no_counters_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with Energy("cuda") as spent:
        pass
    assert spent.joules is None


def test_a_gpu_counts_where_it_computes(domain: Path, monkeypatch: pytest.MonkeyPatch):
    counter = [7_000]
    library = SimpleNamespace(
        NVMLError=OSError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: counter[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    with Energy("cuda") as gpu, Energy("cpu") as cpu:
        counter[0] = 19_500  # mJ
    assert (gpu.joules, cpu.joules) == (12.5, 0)


def test_a_gpu_without_a_driver_is_none(monkeypatch: pytest.MonkeyPatch):
    def none() -> None:
        raise OSError("Driver Not Loaded")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=OSError, nvmlInit=none))
    assert Nvml().stop() is None


def test_power_is_the_mean_over_whole_samples():
    assert mean_power(SAMPLES) == pytest.approx((0.1 * 2 + 0.3 * 6) / 0.4)
    assert mean_power(SAMPLES + "*** Sampled system activity (...) (99.0ms elapsed) ***") == 5
    assert mean_power("powermetrics must be invoked as the superuser") is None


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for powermetrics")
def test_a_mac_tells_its_power_to_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = tmp_path / "powermetrics"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{SAMPLES}END\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "platform", "darwin")
    started = time.perf_counter()
    with suppress(KeyError), Energy("coreml") as spent:
        time.sleep(0.5)
        raise KeyError("an answer that failed: the tool is stopped all the same")
    took = time.perf_counter() - started
    assert spent.joules is not None
    assert 0.5 * 5 <= spent.joules <= took * 5
    monkeypatch.setattr(os, "geteuid", lambda: 501)
    with Energy("coreml") as spent:
        pass
    assert spent.joules is None


def test_powermetrics_that_fails_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = tmp_path / "powermetrics"
    tool.write_text("#!/bin/sh\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert PowerMetrics().stop() is None
