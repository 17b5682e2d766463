"""Packages: graphs that check and compute what they should, a manifest that tells the truth."""

from __future__ import annotations

import gc
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from vlrt_export.exporter import export
from vlrt_export.families import FAMILIES
from vlrt_export.plan import precision_plan
from vlrt_export.quantize import dequantize, quantize
from vlrt_runtime.errors import CheckpointError, InputError
from vlrt_runtime.manifest import MANIFEST, SCHEMA_VERSION, read_manifest
from vlrt_runtime.package import Package

GRAPHS = ("vision_encoder", "projector", "decoder")
ONNX_DTYPES = {"float32": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32}
ONNX_DTYPES["int64"] = onnx.TensorProto.INT64
NODES = {"fp32": "FusedMatMul", "fp16": "FusedMatMul", "int8": "MatMulNBits", "int4": "MatMulNBits"}
TURNED = "DynamicQuantizeMatMul"  # vision and projector at int8, which is what int4 leaves them at


@pytest.fixture(scope="module")
def packages(small_qwen2_vl, tmp_path_factory) -> Callable[[str], Path]:
    """A package of the tiny checkpoint at a precision, made once."""
    base, made = tmp_path_factory.mktemp("packages"), {}

    def get(precision: str) -> Path:
        if precision not in made:
            made[precision] = export(small_qwen2_vl, base / precision, precision=precision)
        return made[precision]

    return get


def graph(package: Path, name: str) -> onnx.GraphProto:
    return onnx.load(package / f"{name}.onnx", load_external_data=False).graph


def session(package: Path, name: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        package / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
    )


def run(package: Path, name: str) -> dict[str, np.ndarray]:
    """Outputs of a graph fed with the same noise every time; free sizes are 4."""
    rng, free = np.random.default_rng(3), {"max_length": 16, "patches": 8}
    feeds: dict[str, Any] = {}
    for spec in read_manifest(package).graphs[name].inputs:
        shape = [free.get(n, 4) if isinstance(n, str) else n for n in spec.shape]
        feeds[spec.name] = rng.normal(0, 1, shape).astype(spec.dtype)
    scalars = {"num_logits": 2, "total_sequence_length": 4}
    feeds |= {k: np.full_like(feeds[k], v) for k, v in scalars.items() if k in feeds}
    running = session(package, name)
    outputs = [output.name for output in running.get_outputs()]
    return dict(zip(outputs, running.run(None, feeds), strict=True))


# --- Graphs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("precision", NODES)
def test_graphs_check_and_say_what_the_manifest_says(packages, precision, name):
    package = packages(precision)
    onnx.checker.check_model(package / f"{name}.onnx", full_check=True)
    spec, found = read_manifest(package).graphs[name], graph(package, name)
    running = session(package, name)
    for specs, values, arguments in (
        (spec.inputs, found.input, running.get_inputs()),
        (spec.outputs, found.output, running.get_outputs()),
    ):
        shapes = [
            tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
            for value in values
        ]
        assert [s.name for s in specs] == [v.name for v in values] == [a.name for a in arguments]
        assert [s.shape for s in specs] == shapes == [tuple(a.shape) for a in arguments]
        dtypes = [value.type.tensor_type.elem_type for value in values]
        assert [ONNX_DTYPES[s.dtype] for s in specs] == dtypes
    kinds = {node.op_type for node in found.node}
    turned = precision.startswith("int") and name != "decoder"
    assert (TURNED if turned else NODES[precision]) in kinds
    assert not any(node.metadata_props for node in found.node)


def test_the_decoder_has_the_interface_that_the_runtime_binds(packages):
    spec = read_manifest(packages("int4")).graphs["decoder"]
    caches = [f"{i}.{kind}" for i in range(3) for kind in ("key", "value")]
    inputs = ["inputs_embeds", "cos", "sin", "num_logits"]
    inputs += [f"past_key_values.{cache}" for cache in caches]
    assert [s.name for s in spec.inputs] == [*inputs, "total_sequence_length"]
    assert [s.name for s in spec.outputs] == ["logits", *(f"present.{cache}" for cache in caches)]
    assert spec.outputs[0].shape == (1, "num_logits", 512)
    assert {s.shape for s in spec.inputs if "past" in s.name} == {(1, 2, "max_length", 16)}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("precision", NODES)
def test_every_weight_lies_in_the_package_and_nowhere_twice(packages, precision, name):
    package = packages(precision)
    size = (package / f"{name}.onnx.data").stat().st_size
    ends, taken = [0], []
    for tensor in graph(package, name).initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            assert tensor.ByteSize() < (256 if "hadamard" not in tensor.name else 20_000), (
                f"{tensor.name}: inline"
            )
            assert onnx.numpy_helper.to_array(tensor).size
            continue
        where = {entry.key: entry.value for entry in tensor.external_data}
        assert where["location"] == f"{name}.onnx.data"
        taken.append((int(where["offset"]), int(where["length"])))
    assert taken
    for offset, length in sorted(taken):
        assert offset % 4096 == 0
        assert offset >= ends[-1]
        ends.append(offset + length)
    assert ends[-1] == size


@pytest.mark.parametrize(("bits", "block"), [(4, 16), (4, 64), (8, 32), (8, 256)])
def test_integer_graphs_compute_what_their_weights_stand_for(small_qwen2_vl, tmp_path, bits, block):
    """The same numbers as the fp32 graph of a checkpoint that holds the dequantised weights."""
    kind = f"int{bits}"
    options = {"block_size": block, "accuracy_level": 0, "vision": kind, "projector": kind}
    quantised = export(small_qwen2_vl, tmp_path / "it", precision=kind, **options)
    shutil.copytree(small_qwen2_vl, tmp_path / "wide")
    for path in (tmp_path / "wide").glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if tensor.ndim > 1:
                rows = tensor.reshape(len(tensor), -1)
                blocks = quantize(rows, bits=bits, block=block)
                made = dequantize(blocks, bits=bits, k=rows.shape[1])
                tensors[name] = np.ascontiguousarray(made).reshape(tensor.shape)
        save_file(tensors, path)
    wide = export(tmp_path / "wide", tmp_path / "out", precision="fp32")
    for name in GRAPHS:
        expected = run(wide, name)
        for key, value in run(quantised, name).items():
            used = np.s_[:, :, :4] if key.startswith("present") else np.s_[:]
            np.testing.assert_allclose(value[used], expected[key][used], atol=2e-4, err_msg=key)


@pytest.mark.parametrize("name", GRAPHS)
def test_half_precision_says_nearly_the_same(packages, name):
    exact = run(packages("fp32"), name)
    for key, value in run(packages("fp16"), name).items():
        used = np.s_[:, :, :4] if key.startswith("present") else np.s_[:]
        error = np.linalg.norm(value[used] - exact[key][used])
        assert error <= 0.005 * np.linalg.norm(exact[key][used]), key


def test_the_package_does_not_need_the_checkpoint(small_qwen2_vl, tmp_path):
    shutil.copytree(small_qwen2_vl, tmp_path / "it")
    export(tmp_path / "it", tmp_path / "out")
    shutil.rmtree(tmp_path / "it")
    (tmp_path / "out").rename(tmp_path / "moved")
    package = Package.open(tmp_path / "moved")
    assert not package.damaged_files()
    assert all(np.isfinite(run(package.folder, name)["logits"]).all() for name in ["decoder"])
    assert all(str(tmp_path).encode() not in p.read_bytes() for p in package.folder.iterdir())


def test_exports_of_one_checkpoint_are_equal(small_qwen2_vl, packages, tmp_path):
    again = export(small_qwen2_vl, tmp_path / "int4")
    for path in again.iterdir():
        assert path.read_bytes() == (packages("int4") / path.name).read_bytes(), path.name


def test_every_file_is_closed(small_qwen2_vl, tmp_path):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ResourceWarning)
        export(small_qwen2_vl, tmp_path / "out")
        gc.collect()
    assert [str(warning.message) for warning in said if warning.category is ResourceWarning] == []


# --- Manifest and options -----------------------------------------------------------------------


def test_the_manifest_names_every_file(packages):
    package = packages("int4")
    manifest = read_manifest(package)
    assert {path.name for path in package.iterdir()} == {MANIFEST, *manifest.files}
    assert not Package.open(package).damaged_files()
    assert manifest.schema_version == SCHEMA_VERSION
    assert manifest.family == "qwen2_vl"
    assert {"config.json", "model-00001-of-00002.safetensors"} <= set(manifest.source.files)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("int8", "int8", "int4", "fp32")),
        ({"precision": "fp16"}, ("fp16", "fp16", "fp16", "fp32")),
        ({"precision": "fp32", "vision": "int8"}, ("int8", "fp32", "fp32", "fp32")),
        ({"projector": "fp16", "decoder": "int8"}, ("int8", "fp16", "int8", "fp32")),
        ({"vision": "int4", "embedding": "int8"}, ("int4", "int8", "int4", "int8")),
        ({"block_size": 32, "accuracy_level": 0}, ("int8", "int8", "int4", "fp32")),
    ],
)
def test_each_component_has_its_precision(small_qwen2_vl, tmp_path, options, expected):
    package = export(small_qwen2_vl, tmp_path / "out", **options)
    manifest = read_manifest(package)
    found = [manifest.graphs[name].precision for name in GRAPHS]
    assert (*(p.kind for p in found), manifest.embedding.precision) == expected
    for precision, name in zip(found, GRAPHS, strict=True):
        turned = precision.kind == "int8" and precision.accuracy_level == 4 and name != "decoder"
        assert precision.block_size == (0 if turned else options.get("block_size", 128))
        assert turned == (TURNED in {node.op_type for node in graph(package, name).node})
        assert precision.accuracy_level == options.get("accuracy_level", 4)
        for node in graph(package, name).node:
            if node.op_type == "MatMulNBits":
                values = {a.name: a.i for a in node.attribute}
                assert precision.kind == f"int{values['bits']}"
                assert values["block_size"] == precision.block_size
                assert values["accuracy_level"] == precision.accuracy_level
    with safe_open(package / manifest.embedding.file, "np") as file:
        assert file.get_tensor("weight").dtype == ("i1" if expected[3] == "int8" else "f4")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "int3"}, r"precision 'int3': expected one of fp32, fp16, int8, int4"),
        ({"precision": "bf16"}, r"precision 'bf16': expected"),
        ({"vision": "INT8"}, r"precision 'INT8': expected"),
        ({"decoder": ""}, r"precision '': expected"),
        ({"embedding": "int4"}, r"embedding 'int4': expected one of source, fp32, fp16, int8"),
        ({"block_size": 48}, r"block size 48: expected one of 16, 32, 64, 128, 256"),
        ({"accuracy_level": 5}, r"accuracy level 5: expected 0 to 4"),
    ],
)
def test_a_bad_option_is_said_before_anything_is_looked_for(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        export(tmp_path / "absent", tmp_path / "out", **options)
    assert not any(tmp_path.iterdir())


def test_a_plan_for_a_graph_that_is_not_there():
    with pytest.raises(InputError, match="projector: this family has only decoder"):
        precision_plan(["decoder"], overrides={"projector": "int8", "decoder": None})


@pytest.mark.parametrize("model_type", ["qwen3", None])
def test_another_model_type_lists_the_supported_ones(tmp_path, model_type):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(CheckpointError) as caught:
        export(tmp_path, tmp_path / "out")
    assert f"model_type {model_type!r}, expected one of {', '.join(FAMILIES)}" in str(caught.value)


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "vision_config", "rope_scaling", "hidden_act"]
)
def test_a_config_without_a_key_it_needs(small_qwen2_vl, tmp_path, key):
    folder = tmp_path / "it"
    shutil.copytree(small_qwen2_vl, folder)
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    if key == "hidden_act":
        config[key] = "swish9"
    (folder / "config.json").write_text(json.dumps(config))
    missing = "mrope_section" if key == "rope_scaling" else key
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{missing}"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
