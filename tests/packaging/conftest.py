"""What is built of this checkout, once a session, and a package to run with it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import vlrt

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Built:
    """The sdist, the wheel made straight from the checkout, and the wheel made from the sdist."""

    sdist: Path
    wheel: Path
    wheel_of_sdist: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    direct, through = tmp_path_factory.mktemp("direct"), tmp_path_factory.mktemp("through")
    for options in (["--wheel", "--outdir", direct], ["--outdir", through]):
        command = [sys.executable, "-m", "build", "--no-isolation", *options, ROOT]
        done = subprocess.run(command, cwd=direct, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = through.glob("*.tar.gz"), direct.glob("*.whl")
    (wheel_of_sdist,) = through.glob("*.whl")
    return Built(sdist, wheel, wheel_of_sdist)


@pytest.fixture(scope="session")
def tiny_package(small_qwen2_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packaging") / "tiny"
    return vlrt.export(small_qwen2_vl, folder, precision="fp32")
