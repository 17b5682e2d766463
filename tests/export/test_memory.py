"""An export holds a block of rows per core in memory, whatever the checkpoint's size; no torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from support.large import large_checkpoint
from vlrt_runtime.memory import private

MEASURED = """
import json, sys, threading
from vlrt_export.exporter import export
from vlrt_runtime.memory import private
peak, done = [0], threading.Event()
def watch():
    while not done.wait(0.02):
        peak[0] = max(peak[0], private())
watcher = threading.Thread(target=watch)
watcher.start()
export(sys.argv[1], sys.argv[2])
done.set()
watcher.join()
heavy = [name for name in ("torch", "transformers", "safetensors") if name in sys.modules]
print(json.dumps({"peak": peak[0], "heavy": heavy}))
"""


@pytest.mark.skipif(private() is None, reason="this system does not say what memory is private")
def test_export_holds_no_checkpoint_in_memory_and_imports_no_torch(tmp_path):
    size = large_checkpoint(tmp_path / "it")
    assert size > 320e6
    paths = [str(tmp_path / "it"), str(tmp_path / "out")]
    try:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *paths], stdout=subprocess.PIPE, check=True
        )
    finally:
        shutil.rmtree(tmp_path)
    found = json.loads(done.stdout)
    assert found["heavy"] == []
    assert found["peak"] < 150e6
