"""What it takes to export a checkpoint whose weights are many megabytes."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.tiny.qwen2_vl import make_qwen2_vl
from vlrt_export.checkpoint import SINGLE, Checkpoint

__all__ = ["measured_export"]

MEASURED = """
import json, sys, threading
{before}
from vlrt_export.exporter import export
start = memory()
peak, done = [start], threading.Event()
def watch():
    while not done.wait(0.02):
        peak[0] = max(peak[0], memory())
watcher = threading.Thread(target=watch)
watcher.start()
export(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
done.set()
watcher.join()
heavy = [name for name in ("torch", "transformers", "safetensors") if sys.modules.get(name)]
print(json.dumps({{"peak": peak[0], "grown": peak[0] - start, "heavy": heavy}}))
"""


def measured_export(folder: Path, before: str, **options: Any) -> dict[str, Any]:
    """Exports a large checkpoint in a process of its own, and removes both.

    Args:
        folder: to work in; it is removed.
        before: runs first; it defines what is measured, `memory()`, in bytes.
        **options: of `export`.

    Returns:
        `size` of the checkpoint, `peak` of the memory and how much it has `grown`, and which
        `heavy` libraries were imported.
    """
    size = large_checkpoint(folder / "it")
    paths = [str(folder / "it"), str(folder / "out")]
    command = [sys.executable, "-c", MEASURED.format(before=before), *paths, json.dumps(options)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    finally:
        shutil.rmtree(folder)
    return {"size": size, **json.loads(done.stdout)}


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
