"""Core ML packages of every family beside ONNX ones, run by our interpreter.

Programs in float32 are compared to the last digits, those for the Neural Engine by a profile that
is its own but for that. Where types are declared float16, checkpoints are rounded to it first, so
that both kinds of package hold the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support.parity import greedy_steps
from support.pictures import picture
from support.quantized import rewrite
from support.tiny.kosmos2 import make_kosmos2
from support.tiny.llama3_vision_alpha import make_alpha
from support.tiny.llava import make_llava
from support.tiny.mllama import make_mllama
from support.tiny.qwen2_vl import make_qwen2_vl
from vlrt_export.exporter import export
from vlrt_export.quantize import dequantize, quantize
from vlrt_export.target import COREML
from vlrt_runtime.model import Model

pytest.importorskip("coremltools", reason="needs vlrt[coreml]")

from vlrt_export.coreml import writer
from vlrt_export.coreml.profiles import PROFILES

EXACT = 1e-4
STEPS = 4
SIZE = (84, 56)  # of the picture, and of those that Qwen2-VL's programs take
IMAGES = [picture(*SIZE)]
QUESTION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
CONTINUED = [
    {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": "<grounding> An image of"}],
    }
]


class Case:
    """A family's tiny checkpoint and how it is asked."""

    def __init__(self, make: Callable[..., Path], context: int, **options: Any) -> None:
        self.make, self.context = make, context
        self.messages = options.pop("messages", QUESTION)
        self.sizes = options.pop("sizes", ())
        self.options = options


SMALL = {"vocabulary": "small", "shards": 1}
CASES = {
    "qwen2_vl": Case(make_qwen2_vl, 64, sizes=(SIZE, (56, 56)), **SMALL, tie=False),
    "llava": Case(make_llava, 640, shards=1),
    "llama3_vision_alpha": Case(make_alpha, 832, **SMALL),
    "kosmos2": Case(make_kosmos2, 96, messages=CONTINUED),
    "mllama": Case(make_mllama, 64, **SMALL),
}


def rounded(source: Path, target: Path) -> Path:
    """A copy of a checkpoint whose numbers are all float16's."""
    target.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
            continue
        tensors = {
            name: tensor.astype(np.float16).astype(np.float32)
            for name, tensor in load_file(path).items()
        }
        save_file(tensors, target / path.name, metadata={"format": "pt"})
    return target


class Made:
    """A checkpoint of a case, its ONNX package, and what that answers."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder = case, folder
        self.checkpoint = rounded(
            case.make(folder / "checkpoint", **case.options), folder / "rounded"
        )
        self.model = Model(export(self.checkpoint, folder / "onnx", precision="fp32"), threads=1)
        self.answer = greedy_steps(self.model, case.messages, IMAGES, STEPS)

    def programs(self, checkpoint: Path | None = None, **options: Any) -> Path:
        name = f"coreml{len(list(self.folder.iterdir()))}"
        return export(
            checkpoint or self.checkpoint,
            self.folder / name,
            target="coreml",
            context=self.case.context,
            image_sizes=self.case.sizes,
            **options,
        )


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(CASES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(CASES["qwen2_vl"], tmp_path_factory.mktemp("qwen2_vl"))


def assert_same(package: Path, made: Made, tolerance: float = EXACT) -> None:
    """Every stage of an answer, and its tokens."""
    model = Model(package, device="mil-interpreter")
    _, pictures = made.model.prepare(made.case.messages, IMAGES)
    expected = made.model.encode(pictures[0])
    found = model.encode(model.prepare(made.case.messages, IMAGES)[1][0])
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=tolerance, rtol=0)
    expected, found = made.model.projector(expected), model.projector(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=tolerance, rtol=0)
    ids, logits = greedy_steps(model, made.case.messages, IMAGES, STEPS)
    np.testing.assert_allclose(logits, made.answer[1], atol=tolerance, rtol=0)
    assert ids == made.answer[0]


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Neural Engine's profile with float32, which its lint would refuse."""
    monkeypatch.setitem(PROFILES, "ane", replace(PROFILES["ane"], wide=True))
    target = replace(COREML["ane"], compute={}, unstored={})
    monkeypatch.setitem(COREML, "ane", target)
    monkeypatch.setattr(writer, "lint", lambda *given: [])


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("profile", ["gpu", "ane"])
def test_every_family_computes_what_its_onnx_graphs_do(made: Made, profile: str):
    assert_same(made.programs(profile=profile, precision="fp32"), made)


@pytest.mark.parametrize("profile", ["gpu", "ane"])
@pytest.mark.filterwarnings("ignore:.*state-axes")
def test_float16_costs_what_float16_does(qwen: Made, profile: str):
    """A hundred roundings by up to 2^-12: 2^-9 in all, and four times that where it is worst."""
    package = qwen.programs(profile=profile, precision="fp16")
    largest = np.abs(qwen.answer[1]).max()
    for mode, bound in (("fp32", 2**-12), ("declared", 2**-7)):
        model = Model(package, device="mil-interpreter", mil_precision=mode)
        ids, logits = greedy_steps(model, QUESTION, IMAGES, STEPS)
        assert ids == qwen.answer[0]
        assert 0 < np.abs(logits - qwen.answer[1]).max() / largest < bound


def block_codes(rows: np.ndarray, bits: int, block: int) -> np.ndarray:
    """What blocks of integers with float16 scales leave of a matrix."""
    made = quantize(rows, bits=bits, block=block)
    made = made._replace(scales=made.scales.astype(np.float16).astype(np.float32))
    return dequantize(made, bits=bits, k=rows.shape[1])


def row_codes(rows: np.ndarray) -> np.ndarray:
    """What 8 bits with one float16 scale a row leave of a matrix."""
    scales = (np.abs(rows).max(1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    return np.rint(rows / scales).clip(-127, 127) * scales


@pytest.mark.parametrize(
    ("profile", "precision", "vision", "decoder"),
    [
        ("gpu", "int8", lambda rows: block_codes(rows, 8, 32), None),
        ("gpu", "int4", lambda rows: rows, lambda rows: block_codes(rows, 4, 32)),
        ("ane", "int8", row_codes, None),
    ],
)
@pytest.mark.filterwarnings("ignore:.*state-axes")
def test_integers_stand_for_their_weights(
    qwen: Made, profile: str, precision: str, vision: Any, decoder: Any, tmp_path: Path
):
    def change(name: str, rows: np.ndarray) -> np.ndarray:
        return (vision if name.startswith("visual.") else decoder or vision)(rows)

    reference = Made.__new__(Made)
    reference.case, reference.folder = qwen.case, tmp_path
    rewrite(qwen.checkpoint, tmp_path / "dequantized", change)
    onnx = export(tmp_path / "dequantized", tmp_path / "onnx", precision="fp32")
    reference.model = Model(onnx, threads=1)
    reference.answer = greedy_steps(reference.model, QUESTION, IMAGES, STEPS)
    assert_same(qwen.programs(profile=profile, precision=precision), reference)


FULL = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {"depth": 1, "embed_dim": 1280, "num_heads": 16, "hidden_size": 1536},
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Made:
    case = Case(make_qwen2_vl, 64, sizes=(SIZE,), **SMALL, **FULL)
    return Made(case, tmp_path_factory.mktemp("full"))


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("profile", ["gpu", "ane"])
def test_a_layer_and_a_block_of_qwen2_vl_2b_at_their_real_size(full: Made, profile: str):
    assert_same(full.programs(profile=profile, precision="fp32"), full, 2e-4)  # 8960 products
