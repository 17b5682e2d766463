"""A checkpoint on a local hub, and what tests ask of it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from vlrt_export.sources import Source
from vlrt_runtime.errors import VlrtError

REPO = "acme/eyes"
TOKEN = "hf_tokenThatMustNotBeSeen"
SHARDS = {
    "model-00001-of-00002.safetensors": bytes(range(256)) * 800,
    "model-00002-of-00002.safetensors": b"second" * 2000,
}
FIRST, SECOND = SHARDS
INDEX = json.dumps({"weight_map": {"a": FIRST, "b": SECOND, "c": FIRST}}).encode()
SHARDED = {
    "config.json": b'{"model_type": "qwen2_vl"}',
    "tokenizer.json": b"{}" * 4000,
    "merges.txt": b"a b\n",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors.index.json": INDEX,
    **SHARDS,
}
UNNEEDED = {
    "README.md": b"# eyes",
    ".gitattributes": b"*.bin",
    "modeling_eyes.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "consolidated.00.pth": b"pickle",
    "consolidated.safetensors": b"other layout",
    "model.fp16.safetensors": b"half",
    "model-00003-of-00002.safetensors": b"left over",
    "onnx/model.onnx": b"onnx",
}

Resolve = Callable[..., Source]


def storage(cache: Path) -> Path:
    return cache / "models--acme--eyes"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failure(get: Resolve, kind: type[VlrtError]) -> str:
    with pytest.raises(kind) as caught:
        get()
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)
