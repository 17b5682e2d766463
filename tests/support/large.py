"""A checkpoint whose weights are many megabytes, and take no time to write."""

from __future__ import annotations

import json
import math
from pathlib import Path

from support.tiny.qwen2_vl import make_qwen2_vl
from vlrt_export.checkpoint import SINGLE, Checkpoint

__all__ = ["large_checkpoint"]


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
