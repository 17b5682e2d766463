"""A package of small ML programs in place of a package's graphs, with the numpy of each beside it.

What counts here is how programs are called; that lowered families compute the right thing is tested
where they are lowered.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from support.mil import function, mb, save, types
from vlrt_runtime.digest import sha256_files

__all__ = ["BLOCK", "LENGTH", "Arithmetic", "make_package"]

BLOCK, LENGTH = 4, 160
MASK = -1e4


class Arithmetic:
    """What the programs compute, of a manifest's sizes."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        random = np.random.default_rng(11)
        graphs = manifest["graphs"]

        def sizes(graph: str, kind: str, name: str) -> list[Any]:
            return next(t["shape"] for t in graphs[graph][kind] if t["name"] == name)

        def matrix(rows: int, columns: int) -> Any:
            return (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float16)

        patch = sizes("vision_encoder", "inputs", "pixel_values")[-1]
        self.hidden = sizes("decoder", "inputs", "inputs_embeds")[-1]
        self.half = sizes("decoder", "inputs", "cos")[-1]
        features = sizes("vision_encoder", "outputs", "image_features")
        self.width = features[-1]
        self.vocab = sizes("decoder", "outputs", "logits")[-1]
        self.encoder = matrix(self.width, patch)
        self.projector = matrix(self.hidden, self.width)
        self.head = matrix(self.vocab, self.hidden)

    def logits(self, embeds: Any, cos: Any) -> Any:
        """Logits [s, vocab] of a whole sequence: each row looks at itself and those before it."""
        x = embeds * cos.mean(-1, keepdims=True)
        scores = x @ x.T + np.where(np.tri(len(x), dtype=bool), 0, -np.inf)
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = powers / powers.sum(-1, keepdims=True) @ x
        return mixed @ self.head.astype(np.float32).T

    def decoder(self, rows: int, part: str = "whole") -> Any:
        """The same on a cache; in parts, the second has cache and head."""
        dtype = types.fp32
        first = {"cos": mb.TensorSpec((1, rows, self.half), dtype)}
        second = {
            "mask": mb.TensorSpec((1, 1, rows, LENGTH), dtype),
            "position": mb.TensorSpec((1,), types.int32),
            "cache": mb.StateTensorSpec((1, LENGTH, self.hidden), types.fp16),
        }
        entry = "hidden" if part == "second" else "inputs_embeds"
        specs = {entry: mb.TensorSpec((1, rows, self.hidden), dtype)}
        specs |= {} if part == "second" else first
        specs |= {} if part == "first" else second

        def body(x: Any, *others: Any) -> Any:
            left = list(others)
            if part != "second":
                mean = mb.reduce_mean(x=left.pop(0), axes=[-1], keep_dims=True)
                x = mb.mul(x=x, y=mean, name="hidden_out" if part == "first" else "scaled")
            if part == "first":
                return x
            mask, position, cache = left
            end = mb.add(x=position, y=np.array([rows], np.int32))
            begin = mb.concat(values=[[0], position, [0]], axis=0)
            stop = mb.concat(values=[[1], end, [self.hidden]], axis=0)
            held = mb.slice_update(
                x=mb.read_state(input=cache),
                update=mb.cast(x=x, dtype="fp16"),
                begin=begin,
                end=stop,
            )
            held = mb.cast(x=mb.coreml_update_state(state=cache, value=held), dtype="fp32")
            scores = mb.matmul(x=x, y=held, transpose_y=True)
            weights = mb.softmax(x=mb.add(x=scores, y=mb.squeeze(x=mask, axes=[0])), axis=-1)
            mixed = mb.matmul(x=weights, y=held, name="mixed")
            if rows > 1:
                return mixed
            cut = self.vocab // 2
            head = self.head.astype(np.float32)
            return tuple(
                mb.linear(x=mixed, weight=part, name=f"logits_{at}")
                for at, part in enumerate((head[:cut], head[cut:]))
            )

        return function(specs, body)


def stateless(specs: dict[str, Any], body: Any) -> dict[str, Any]:
    return {"main": function(specs, body)}


def make_package(
    source: Path, folder: Path, *, sizes: Sequence[tuple[int, int]], chunks: int = 1
) -> tuple[Path, Arithmetic]:
    """A copy of a Qwen2-VL package whose graphs are programs of fixed sizes (height, width)."""
    shutil.copytree(source, folder)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    made = Arithmetic(manifest)
    encoders, projectors = {}, {}
    for height, width in sizes:
        patches = (height // 14) * (width // 14)

        def encode(pixels: Any, cos: Any) -> Any:
            turned = mb.reduce_mean(x=cos, axes=[-1], keep_dims=True)
            return mb.mul(
                x=mb.linear(x=pixels, weight=made.encoder.astype(np.float32)),
                y=turned,
                name="image_features",
            )

        cos = next(
            t["shape"][-1]
            for t in manifest["graphs"]["vision_encoder"]["inputs"]
            if t["name"] == "cos"
        )
        encoders[f"size_{height}x{width}"] = function(
            {
                "pixel_values": mb.TensorSpec((1, patches, made.encoder.shape[1]), types.fp32),
                "cos": mb.TensorSpec((1, patches, cos), types.fp32),
            },
            encode,
        )

        def project(features: Any) -> Any:
            weight = made.projector.astype(np.float32)
            rows = mb.linear(x=features, weight=weight)
            shape = [1, -1, 4, made.hidden]
            return mb.reduce_sum(
                x=mb.reshape(x=rows, shape=shape), axes=[2], keep_dims=False, name="image_embeds"
            )

        projectors[f"size_{height}x{width}"] = function(
            {"image_features": mb.TensorSpec((1, patches, made.width), types.fp32)}, project
        )
    save(encoders, folder / "vision_encoder.mlpackage")
    save(projectors, folder / "projector.mlpackage")
    parts = ("whole",) if chunks == 1 else ("first", "second")
    files = [f"decoder_{at}.mlpackage" for at in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        save({"decode": made.decoder(1, part), "prefill": made.decoder(BLOCK, part)}, folder / file)
    for path in [*folder.glob("*.onnx"), *folder.glob("*.data")]:
        path.unlink()
    for name, file in (("vision_encoder", None), ("projector", None), ("decoder", files[0])):
        graph = manifest["graphs"][name]
        graph["file"] = file or f"{name}.mlpackage"
        dropped = ("num_logits", "total_sequence_length", "past_key_values", "present")
        for kind in ("inputs", "outputs"):
            graph[kind] = [t for t in graph[kind] if not t["name"].startswith(dropped)]
    manifest |= {
        "target": "coreml",
        "device": "coreml",
        "coreml": {
            "profile": "gpu",
            "decoder": files,
            "prefill_rows": BLOCK,
            "max_length": LENGTH,
            "mask_value": MASK,
        },
    }
    manifest["image"]["sizes"] = sizes
    manifest["generation"]["max_context"] = LENGTH
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    digests = sha256_files(paths.values())
    manifest["files"] = {
        name: {"size": path.stat().st_size, "sha256": digests[path]} for name, path in paths.items()
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return folder, made
