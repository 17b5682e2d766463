"""An export holds a block of rows per core in memory, whatever the checkpoint's size; no torch."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.tiny.qwen2_vl import make_qwen2_vl
from vlrt_export.checkpoint import SINGLE, Checkpoint
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


def large_checkpoint(folder: Path) -> int:
    """A checkpoint of zeros with a large table and two layers; returns its bytes."""
    width, vocabulary = 512, 151_936
    make_qwen2_vl(
        folder,
        vocabulary="small",
        shards=1,
        hidden_size=width,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=8,
        vision_config={"hidden_size": width},
    )
    header, end = {}, 0
    for name, tensor in Checkpoint(folder).stored.items():
        shape = [vocabulary, width] if "embed_tokens" in name else list(tensor.shape)
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / SINGLE).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # a hole in the file: zeros that take no time to write
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": vocabulary}))
    return end


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
