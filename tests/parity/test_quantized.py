"""Quantised packages against transformers on the weights that the codes stand for.

The checkpoint's matrices are quantised and dequantised row by row, written back as float32, and run
by transformers: so the graphs, the fused matrices and the packed layout are judged, not the loss.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support.pictures import picture
from support.tiny.qwen2_vl import make_qwen2_vl
from vlrt.verify.reference import ReferenceRun, load_reference
from vlrt_export.exporter import export
from vlrt_runtime.model import Model

MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
IMAGES = [picture(150, 100)]
# Computed in float32 with the same values: as tight as float32 itself.
EXACT = 1e-4


def dequantized(rows: np.ndarray, bits: int, block: int) -> np.ndarray:
    """What `quantize` leaves of a matrix, written out slowly from its codes."""
    from vlrt_export.quantize import quantize

    codes, scales, zeros = quantize(rows, bits=bits, block=block)
    out = np.zeros_like(rows)
    for r in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            b, i = divmod(c, block)
            if bits == 4:
                code = codes[r, b, i // 2] >> (4 * (i % 2)) & 15
                zero = zeros[r, b // 2] >> (4 * (b % 2)) & 15
            else:
                code, zero = codes[r, b, i], zeros[r, b]
            out[r, c] = (int(code) - int(zero)) * scales[r, b]
    return out


def rewrite(source: Path, target: Path, change: Any) -> Path:
    """A copy of a single-file checkpoint whose matrices went through `change(name, rows)`."""
    target.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and "embed_tokens" not in name:
            rows = tensor.reshape(len(tensor), -1)
            tensors[name] = change(name, rows).reshape(tensor.shape)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untied, so that the head can be quantised and the table left as it is."""
    folder = tmp_path_factory.mktemp("quantized") / "checkpoint"
    return make_qwen2_vl(folder, vocabulary="small", tie=False, shards=1)


def reference_run(folder: Path) -> ReferenceRun:
    reference = load_reference(folder, "qwen2_vl")
    return reference.run(reference.inputs(MESSAGES, IMAGES), 8)


def stages(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    layout, pictures = model.prepare(MESSAGES, IMAGES)
    features = model.encode(pictures[0])
    projected = model.projector(features)
    embeds = model.splice(layout, [projected])
    logits = model.decoder().run(layout.inputs(embeds, 0), num_logits=len(layout.token_ids))
    return features["image_features"][0], projected["image_embeds"][0], logits


def differences(model: Model, run: ReferenceRun) -> list[float]:
    wanted = (run.vision_features[0], run.image_embeds[0], run.logits)
    return [
        float(np.abs(got - want).max()) for got, want in zip(stages(model), wanted, strict=True)
    ]


@pytest.mark.parametrize(
    ("kind", "block"), [("int8", 128), ("int8", 16), ("int4", 16), ("int4", 32), ("int4", 128)]
)
def test_codes_stand_for_their_weights(checkpoint: Path, tmp_path: Path, kind: str, block: int):
    bits = int(kind.removeprefix("int"))
    plan = {"decoder": bits, "rest": 8 if kind == "int4" else bits}

    def change(name: str, rows: np.ndarray) -> np.ndarray:
        part = "rest" if name.startswith("visual.") else "decoder"
        return dequantized(rows, plan[part], block)

    expected = reference_run(rewrite(checkpoint, tmp_path / "dequantized", change))
    package = export(
        checkpoint, tmp_path / "package", precision=kind, block_size=block, accuracy_level=0
    )
    model = Model(package, threads=1)
    assert max(differences(model, expected)) < EXACT
    answer = model.generate(MESSAGES, images=IMAGES, max_new_tokens=8)
    if expected.margins.min() > 10 * EXACT:  # otherwise a near tie may fall either way
        assert answer.token_ids == expected.token_ids
    sizes = json.loads((package / "manifest.json").read_text())["graphs"]
    assert sizes["decoder"]["precision"]["kind"] == kind


def test_fp16_is_the_nearest_half(checkpoint: Path, tmp_path: Path):
    def change(name: str, rows: np.ndarray) -> np.ndarray:
        return rows.astype(np.float16).astype(np.float32)

    expected = reference_run(rewrite(checkpoint, tmp_path / "halved", change))
    model = Model(export(checkpoint, tmp_path / "package", precision="fp16"), threads=1)
    assert max(differences(model, expected)) < EXACT


def test_int8_activations_cost_little(checkpoint: Path, tmp_path: Path):
    """Accuracy level 4 rounds activations to 8 bits: about 1 % of the largest value a stage."""
    exact, fast = (
        Model(
            export(checkpoint, tmp_path / f"{level}", precision="int8", accuracy_level=level),
            threads=1,
        )
        for level in (0, 4)
    )
    for got, want in zip(stages(fast), stages(exact), strict=True):
        error = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
        assert 0 < error < 0.1  # root mean square, after up to five layers


def test_components_have_their_own_precision(checkpoint: Path, tmp_path: Path):
    expected = reference_run(checkpoint)
    package = export(checkpoint, tmp_path / "p", precision="int4", vision="fp32", projector="fp32")
    vision, projector, decoder = differences(Model(package, threads=1), expected)
    assert vision < EXACT
    assert projector < EXACT
    assert decoder > 0.01
