"""An export for Core ML maps its weights from disk and copies a matrix at a time; no torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.large import large_checkpoint

pytest.importorskip("coremltools", reason="needs vlrt[coreml]")

MAPS = Path("/proc/self/smaps_rollup")
MEASURED = """
import dataclasses, json, sys, threading
sys.modules["torch"] = sys.modules["transformers"] = None  # coremltools takes what is there
from vlrt_export.coreml import profiles, writer
from vlrt_export.exporter import export
small = dataclasses.replace(profiles.PROFILES["gpu"], largest=1 << 22)  # 8 MB a piece
profiles.PROFILES["gpu"] = small
def anonymous():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))
start = anonymous()
peak, done = [start], threading.Event()
def watch():
    while not done.wait(0.02):
        peak[0] = max(peak[0], anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
export(sys.argv[1], sys.argv[2], target="coreml", precision="fp16", image_sizes=[(56, 56)],
       context=64)
done.set()
watcher.join()
print(json.dumps({"grown": peak[0] - start}))
"""


@pytest.mark.skipif(not MAPS.exists(), reason="this system does not say what memory is anonymous")
def test_weights_are_mapped_and_torch_is_not_needed(tmp_path: Path):
    size = large_checkpoint(tmp_path / "it")
    paths = [str(tmp_path / "it"), str(tmp_path / "out")]
    try:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *paths], stdout=subprocess.PIPE, check=True
        )
    finally:
        shutil.rmtree(tmp_path)
    found = json.loads(done.stdout)
    assert found["grown"] < size / 4  # the decoder's weights are twice that
