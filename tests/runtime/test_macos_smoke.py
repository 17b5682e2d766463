"""scripts/macos_smoke.py, up to Apple's own calls: these are the interpreter's here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.coreml_package import make_package

SCRIPT = Path(__file__).parents[2] / "scripts" / "macos_smoke.py"


@pytest.mark.skipif(not SCRIPT.is_file(), reason="the script is part of the source, not the wheel")
def test_its_report(small_package: Path, tmp_path: Path):
    package, _ = make_package(small_package, tmp_path / "package", sizes=((56, 84),))
    done = subprocess.run(
        [sys.executable, SCRIPT, "--package", package, "--device", "mil-interpreter"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *_, line, last = done.stdout.splitlines()
    assert line.startswith("interpreter ")
    assert line.endswith(" equal")
    (row,) = json.loads(last)["rows"]
    # fp32 against declared types: close, and not the same
    assert 0 < row["logits_difference"] < 0.1
    assert len(row["ids"]) > 1
