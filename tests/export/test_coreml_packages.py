"""Core ML packages as files: what is in them, how large they are, and what is refused."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from support.pictures import picture
from vlrt.cli import main
from vlrt_export.exporter import export
from vlrt_export.target import COREML, target_for
from vlrt_runtime.errors import InputError
from vlrt_runtime.manifest import read_manifest
from vlrt_runtime.model import Model
from vlrt_runtime.package import Package

pytest.importorskip("coremltools", reason="needs vlrt[coreml]")

from vlrt_export.coreml.errors import LoweringError
from vlrt_export.coreml.lowering import Piece, lower
from vlrt_export.coreml.profiles import PROFILES
from vlrt_export.coreml.store import Store
from vlrt_runtime.mil.program import MilProgram

SIZES = [(84, 56), (56, 84), (56, 56)]


@pytest.fixture(scope="module")
def package(small_qwen2_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coreml") / "package"
    return export(
        small_qwen2_vl, folder, target="coreml", precision="fp16", image_sizes=SIZES, context=96
    )


def weights(package: Path, name: str) -> int:
    return (package / name / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


def test_functions_share_their_weights(package: Path):
    manifest = read_manifest(package)
    for name in ("vision_encoder", "projector", "decoder"):
        expected = 2 * manifest.graphs[name].parameters
        # Norms of pictures are in float32; each blob has 64 bytes of its own, and is aligned.
        assert expected < weights(package, f"{name}.mlpackage") < 1.1 * expected + 20_000
    functions = MilProgram.open(package / "decoder.mlpackage").functions
    assert set(functions) == {"decode", "prefill"}
    vision = MilProgram.open(package / "vision_encoder.mlpackage").functions
    assert set(vision) == {"patches_24", "patches_16"}  # two sizes have as many patches


def test_the_manifest_says_how_programs_are_called(package: Path):
    manifest = read_manifest(package)
    assert manifest.target == manifest.device == "coreml"
    assert manifest.coreml is not None
    assert manifest.coreml.decoder == ("decoder.mlpackage",)
    assert manifest.coreml.max_length == manifest.generation.max_context == 96
    assert manifest.image["sizes"] == [[56, 84], [84, 56], [56, 56]]
    assert [spec.name for spec in manifest.graphs["decoder"].inputs] == [
        "inputs_embeds",
        "cos",
        "sin",
    ]
    assert not list(package.rglob("*.data"))
    Package.open(package)
    assert main(["inspect", str(package), "--check"]) == 0


def test_llama_3_2_takes_one_picture_or_none(small_mllama: Path, tmp_path: Path):
    common = {"precision": "fp32"}
    onnx = export(small_mllama, tmp_path / "onnx", **common)
    package = export(small_mllama, tmp_path / "coreml", target="coreml", context=96, **common)
    model = Model(package, device="mil-interpreter")
    answers = [each.generate("What?", max_new_tokens=4).token_ids for each in (model, Model(onnx))]
    assert answers[0] == answers[1]
    assert answers[0]
    said = "2 pictures, and this package was exported for 1 a prompt; ask of one at a time"
    with pytest.raises(InputError, match=said):
        model.prepare("What?", [picture(56, 56), picture(56, 56)])


def graph_of(op_type: str, **attributes: int) -> ir.Graph:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 4, 8]))
    made = [ir.AttrInt64(key, value) for key, value in attributes.items()]
    node = ir.Node("", op_type, [x], made, name="here")
    node.outputs[0].name = "y"
    return ir.Graph([x], [node.outputs[0]], nodes=[node], opset_imports={"": 23})


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (graph_of("Einsum"), "ai.onnx::Einsum 'here': Core ML has no rule for this operator"),
        (graph_of("Gelu", strange=1), "ai.onnx::Gelu 'here': its rule does not know strange"),
    ],
)
def test_what_the_table_lacks_is_named(graph: ir.Graph, said: str, tmp_path: Path):
    piece = Piece(graph=graph, outputs={"y": graph.outputs[0]}, shapes={"x": (1, 4, 8)})
    with pytest.raises(LoweringError, match=said):
        lower(piece, PROFILES["gpu"], Store(tmp_path))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"profile": "ane", "precision": "int4"}, "the Neural Engine knows no blocks of 4 bits"),
        ({"image_sizes": [(100, 56)]}, "image size 100x56: expected multiples of 28, as 112x56"),
        ({"context": 0}, "context 0: expected 1 or more"),
        ({"context": 1 << 20}, "this model was made for at most"),
        ({"device": "cpu"}, "device 'cpu': target coreml has none"),
        ({"profile": "tpu"}, "profile 'tpu': expected one of gpu, ane"),
        ({"target": "tflite"}, "target 'tflite': expected one of onnx, coreml"),
        ({"target": "onnx", "context": 64}, "context: ONNX graphs take any"),
        ({"target": "onnx", "profile": "gpu"}, "profile 'gpu': target onnx has none"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    small_qwen2_vl: Path, tmp_path: Path, options: dict[str, object], said: str
):
    with pytest.raises(InputError, match=said):
        export(small_qwen2_vl, tmp_path / "p", **{"target": "coreml", **options})
    assert not (tmp_path / "p").exists()


def test_one_size_is_one_size(tiny_kosmos2: Path, tmp_path: Path):
    with pytest.raises(InputError, match="this model sees every picture at one size"):
        export(tiny_kosmos2, tmp_path / "p", target="coreml", image_sizes=[(56, 56)])


def test_defaults_are_the_profiles_own():
    assert target_for("coreml") is COREML["gpu"]
    assert (COREML["gpu"].precision, COREML["gpu"].block_size) == ("int4", 32)
    assert COREML["ane"].precision == "int8"
