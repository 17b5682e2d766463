"""Core ML packages of every family beside ONNX ones, run by our interpreter.

Programs in float32 are compared to the last digits, those for the Neural Engine by a profile that
is its own but for that. Checkpoints are in float16, so that all kinds of packages hold the same
numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.parity import greedy_steps
from support.pictures import picture
from support.quantized import rewrite
from support.roundings import float16_bound
from support.tiny.kosmos2 import make_kosmos2
from support.tiny.llama3_vision_alpha import make_alpha
from support.tiny.llava import make_llava
from support.tiny.mllama import make_mllama
from support.tiny.qwen2_vl import make_qwen2_vl
from vlrt_export.exporter import export
from vlrt_export.quantize import dequantize, quantize
from vlrt_export.target import COREML
from vlrt_runtime.manifest import read_manifest
from vlrt_runtime.mil.program import MilProgram
from vlrt_runtime.model import Model

pytest.importorskip("coremltools", reason="needs vlrt[coreml]")

from vlrt_export.coreml import writer
from vlrt_export.coreml.profiles import PROFILES

EXACT = 1e-4  # float32 sums in another order
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


Stages = dict[str, dict[str, np.ndarray]]


class Case:
    """A family's tiny checkpoint and how it is asked."""

    def __init__(self, make: Callable[..., Path], context: int, **options: Any) -> None:
        self.make, self.context = make, context
        self.messages = options.pop("messages", QUESTION)
        self.sizes = options.pop("sizes", ())
        # Of what float16 leaves of constants: epsilons and scales; where there are tables that are
        # multiplied before they are stored, their every entry is rounded, by up to 2^-11.
        self.constants = options.pop("constants", 2**-14)
        self.options = options


SMALL = {"vocabulary": "small", "shards": 1}
CASES = {
    "qwen2_vl": Case(make_qwen2_vl, 64, sizes=(SIZE, (56, 56)), **SMALL, tie=False),
    "llava": Case(make_llava, 64, shards=1, image_size=56),
    "llama3_vision_alpha": Case(make_alpha, 64, **SMALL, image_size=56),
    "kosmos2": Case(make_kosmos2, 96, messages=CONTINUED),
    "mllama": Case(make_mllama, 64, constants=2**-10, **SMALL),
}


class Made:
    """A checkpoint of a case, its ONNX package, and what that computes at float32."""

    def __init__(self, case: Case, folder: Path, checkpoint: Path | None = None) -> None:
        self.case, self.folder = case, folder
        self.checkpoint = checkpoint or case.make(
            folder / "checkpoint", dtype="float16", **case.options
        )
        self.model = Model(export(self.checkpoint, folder / "onnx", precision="fp32"), threads=1)
        self.expected = self.stages(self.model)

    def stages(self, model: Model, like: Stages | None = None) -> Stages:
        """What each stage of an answer gives, the same as `like` before them having gone in."""
        _, pictures = model.prepare(self.case.messages, IMAGES)
        encoded = model.encode(pictures[0])
        projected = model.projector(like["vision_encoder"] if like else encoded)
        fed = like["decoder"]["logits"].argmax(-1).tolist() if like else []
        _, logits = greedy_steps(model, self.case.messages, IMAGES, STEPS, fed=fed)
        return {"vision_encoder": encoded, "projector": projected, "decoder": {"logits": logits}}

    def programs(self, **options: Any) -> Path:
        return export(
            self.checkpoint,
            self.folder / "_".join(options.values()),
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
    found = made.stages(Model(package, device="mil-interpreter"), made.expected)
    for stage, expected in made.expected.items():
        for name in expected:
            np.testing.assert_allclose(
                found[stage][name], expected[name], atol=tolerance, rtol=0, err_msg=name
            )
    ids, expected_ids = (each["decoder"]["logits"].argmax(-1) for each in (found, made.expected))
    assert ids.tolist() == expected_ids.tolist()


def assert_near(package: Path, made: Made) -> None:
    """Every stage within what rounding constants costs, and what rounding all results does."""
    spec = read_manifest(package).coreml
    assert spec is not None
    vision, projector = (package / f"{name}.mlpackage" for name in ("vision_encoder", "projector"))
    files = {"vision_encoder": [vision], "projector": [projector]}
    files["decoder"] = [vision, projector, *(package / file for file in spec.decoder)]
    for mode in ("fp32", "declared"):
        model = Model(package, device="mil-interpreter", mil_precision=mode)
        found = made.stages(model, made.expected)
        for stage, outputs in made.expected.items():
            bound = made.case.constants if mode == "fp32" else float16_bound(files[stage])
            for name, expected in outputs.items():
                error = np.abs(found[stage][name] - expected).max() / np.abs(expected).max()
                assert 0 < error < bound, f"{mode}: {name}: {error:.1e}, expected {bound:.1e}"


def in_chunks(monkeypatch: pytest.MonkeyPatch, element: int, **changes: Any) -> None:
    """A Neural Engine whose programs hold less than a layer, of so many bytes a weight."""
    small = {"program_bytes": 50_000 * element, "prefill_rows": 16, "query_rows": 8}
    monkeypatch.setitem(PROFILES, "ane", replace(PROFILES["ane"], **small, **changes))


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Neural Engine's profile with float32, which its lint would refuse, in small programs."""
    in_chunks(monkeypatch, 4, wide=True)
    target = replace(COREML["ane"], compute={}, unstored={})
    monkeypatch.setitem(COREML, "ane", target)
    monkeypatch.setattr(writer, "lint", lambda *given: [])


def assert_chunks(package: Path) -> None:
    """Several programs with a cache each, of which functions share one state."""
    spec = read_manifest(package).coreml
    assert spec is not None
    programs = [MilProgram.open(package / file) for file in spec.decoder]
    states = [[f.states for f in program.functions.values()] for program in programs]
    assert all(len(found) <= 1 for functions in states for found in functions)
    assert sum(any(functions) for functions in states) > 1


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("profile", ["gpu", "ane"])
def test_every_family_computes_what_its_onnx_graphs_do(made: Made, profile: str):
    package = made.programs(profile=profile, precision="fp32")
    assert_same(package, made)
    if profile == "ane":
        assert_chunks(package)


@pytest.mark.parametrize("profile", ["gpu", "ane"])
@pytest.mark.filterwarnings("ignore:.*(state-axes|squares)")
def test_float16_costs_what_float16_does(made: Made, profile: str, monkeypatch: pytest.MonkeyPatch):
    in_chunks(monkeypatch, 2)
    assert_near(made.programs(profile=profile, precision="fp16"), made)


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
        make = vision if name.startswith("visual.") else decoder or vision
        return make(rows.astype(np.float32))

    dequantized = rewrite(qwen.checkpoint, tmp_path / "dequantized", change)
    reference = Made(qwen.case, tmp_path, dequantized)
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
    # A head of 80 numbers has its scores scaled by what float16 does not hold.
    case = Case(make_qwen2_vl, 64, sizes=(SIZE,), constants=2**-11, **SMALL, **FULL)
    return Made(case, tmp_path_factory.mktemp("full"))


@pytest.mark.parametrize("profile", ["gpu", "ane"])
def test_a_layer_and_a_block_of_qwen2_vl_2b_at_their_real_size(full: Made, profile: str):
    assert_near(full.programs(profile=profile, precision="fp16"), full)
