"""Packages for CUDA: their operators have kernels there, and their numbers are those of the CPU's.

The graphs themselves run here on onnxruntime's CPU provider, by the same code as on a GPU; only the
provider is another. What needs a GPU is marked `gpu`, and is skipped with the reason where none is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

from support.cuda import unsupported
from support.packages import with_generation
from support.parity import greedy_steps
from support.pictures import picture
from support.tiny.kosmos2 import make_kosmos2
from support.tiny.llama3_vision_alpha import make_alpha
from support.tiny.llava import make_llava
from support.tiny.mllama import make_mllama
from support.tiny.qwen2_vl import make_qwen2_vl
from vlrt_export.exporter import export
from vlrt_runtime.backends import device_decoder
from vlrt_runtime.errors import DeviceError, InputError
from vlrt_runtime.model import Model

MAKERS: dict[str, Callable[..., Path]] = {
    "kosmos2": make_kosmos2,
    "llama3_vision_alpha": make_alpha,
    "llava": make_llava,
    "mllama": make_mllama,
    "qwen2_vl": make_qwen2_vl,
}
SMALL = {"mllama": {"vocabulary": "small"}, "qwen2_vl": {"vocabulary": "small"}}
GRAPHS = ("vision_encoder", "projector", "decoder")
PROMPT = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe this."}]}
]
# What onnxruntime computes sizes with, on the host by its own choice.
SIZE_OPERATORS = {"Cast", "Gather", "Greater", "Mul", "Neg", "Shape", "Size", "Sub", "If"}
# float16 has 11 bits: 5e-4 of a number. A dozen roundings one after the other stay under 1 % of
# the largest number, while a wrong scale, mask or position is some 10 % and more.
TOLERANCE = 1e-2


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, made = tmp_path_factory.mktemp("checkpoints"), {}

    def checkpoint(family: str) -> Path:
        if family not in made:
            made[family] = MAKERS[family](folder / family, **SMALL.get(family, {}))
        return made[family]

    return checkpoint


def outputs(package: Path, device: str = "cpu") -> dict[str, np.ndarray]:
    """Features of a picture, the prompt's rows, and logits of the prompt and of four steps."""
    model = Model(package, device=device)
    layout, pictures = model.prepare(PROMPT, [picture(70, 50)])
    encoded = [model.encode(one) for one in pictures]
    projected = [model.projector(one) for one in encoded]
    embeds = model.splice(layout, projected)
    decoder = model.decoder(projected)
    rows = [np.array(model.prefill(decoder, layout, embeds)[-1])]
    rows += [np.array(model.step(decoder, layout, token)) for token in (5, 7, 5, 260)]
    return {
        "features": encoded[0]["image_features"].astype(np.float32),
        "embeds": embeds,
        "logits": np.stack(rows),
    }


def assert_near(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    for name, expected in want.items():
        assert np.isfinite(got[name]).all(), name
        difference = np.abs(got[name] - expected).max() / np.abs(expected).max()
        assert difference < TOLERANCE, f"{name}: {difference:.1e}"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("family", MAKERS)
def test_operators_have_kernels_and_numbers_are_the_cpus(
    checkpoints, tmp_path, family: str, precision: str
):
    source = checkpoints(family)
    package = export(source, tmp_path / "cuda", precision=precision, block_size=32, device="cuda")
    assert [bad for name in GRAPHS for bad in unsupported(package / f"{name}.onnx")] == []
    # The same weights, multiplied in float32.
    rest = {"vision": "fp16", "projector": "fp16"} if precision == "int4" else {}
    options: dict[str, Any] = {"block_size": 32, "accuracy_level": 0, **rest}
    reference = export(source, tmp_path / "cpu", precision=precision, **options)
    assert_near(outputs(package), outputs(reference))


def test_the_table_refuses_what_the_cpu_runs(small_package: Path):
    found = unsupported(small_package / "decoder.onnx")
    assert found, "GroupQueryAttention in float32 has no kernel"
    assert all("GroupQueryAttention of FLOAT" in bad for bad in found)


@pytest.fixture(scope="module")
def package(small_qwen2_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "cuda"
    return export(small_qwen2_vl, folder, precision="fp16", device="cuda")


@pytest.fixture(scope="module")
def model(package: Path) -> Model:
    return Model(package, device="cpu", threads=1)


def test_what_a_package_says_and_shares(package: Path):
    manifest = json.loads((package / "manifest.json").read_text("utf-8"))
    assert manifest["device"] == "cuda"
    decoder = manifest["graphs"]["decoder"]
    dtypes = {spec["name"]: spec["dtype"] for spec in decoder["inputs"] + decoder["outputs"]}
    assert dtypes["token_ids"] == dtypes["next_ids"] == dtypes["num_logits"] == "int64"
    floats = ("inputs_embeds", "cos", "past_key_values.0.key", "present.0.value", "logits")
    assert {dtypes[name] for name in floats} == {"float16"}
    graph = onnx.load(package / "decoder.onnx", load_external_data=False).graph
    places = {entry.value for t in graph.initializer for entry in t.external_data[:1]}
    assert places == {"decoder.onnx.data", "embed_tokens.safetensors"}, "the table is there once"


@pytest.mark.parametrize(("precision", "kinds"), [
    ("int4", ["fp16", "fp16", "int4"]), ("int8", ["int8"] * 3), ("fp16", ["fp16"] * 3),
])  # fmt: skip
def test_what_a_precision_means(small_qwen2_vl: Path, tmp_path: Path, precision, kinds):
    folder = export(small_qwen2_vl, tmp_path / "p", precision=precision, device="cuda")
    graphs = json.loads((folder / "manifest.json").read_text("utf-8"))["graphs"]
    assert [graphs[name]["precision"]["kind"] for name in GRAPHS] == kinds
    assert {graphs[name]["precision"]["accuracy_level"] for name in GRAPHS} == {0}


def test_an_unknown_device(small_qwen2_vl: Path, tmp_path: Path):
    with pytest.raises(InputError, match="device 'tpu': expected one of cpu, cuda"):
        export(small_qwen2_vl, tmp_path / "p", device="tpu")


def test_vision_sums_beyond_float16(checkpoints, tmp_path: Path):
    """Every block adds 40,000 to one column: together more than float16 holds."""
    source, changed = checkpoints("qwen2_vl"), tmp_path / "checkpoint"
    changed.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (changed / path.name).write_bytes(path.read_bytes())
            continue
        tensors = load_file(path)
        for name in tensors:
            if "visual.blocks" in name and name.endswith("mlp.fc2.bias"):
                tensors[name][3] = 40_000
        save_file(tensors, changed / path.name, metadata={"format": "pt"})
    got = outputs(export(changed, tmp_path / "cuda", precision="fp16", device="cuda"))
    assert got["features"].max() > np.finfo(np.float16).max
    assert_near(got, outputs(export(changed, tmp_path / "cpu", precision="fp32")))


@pytest.mark.parametrize("embedding", ["fp32", "fp16", "int8"])
def test_rows_looked_up_in_the_graph_are_the_tables(small_qwen2_vl, tmp_path, embedding):
    folder = export(
        small_qwen2_vl, tmp_path / "p", precision="fp16", device="cuda", embedding=embedding
    )
    model = Model(folder, device="cpu")
    layout, _ = model.prepare("hi")
    embeds = model.splice(layout, [])
    inputs = layout.inputs(embeds, 0)
    given = model.decoder().run(inputs)
    looked_up = inputs | {"inputs_embeds": embeds[:, :0], "token_ids": layout.token_ids[None]}
    assert np.abs(model.decoder().run(looked_up) - given).max() < 2e-3 * np.abs(given).max()


def test_a_sequence_in_pieces_grown_rewound_and_forked(model: Model):
    layout, _ = model.prepare("hi")
    embeds = model.splice(layout, [])
    ids = np.random.default_rng(0).integers(5, 400, device_decoder.SMALLEST + 20)
    rows = np.concatenate([embeds, model.embed(ids)[None]], axis=1)
    whole = model.decoder().run(layout.inputs(rows, 0), num_logits=rows.shape[1])
    decoder, start = model.decoder(), embeds.shape[1]
    decoder.run(layout.inputs(embeds, 0))
    size = decoder.nbytes
    got = [model.step(decoder, layout, int(token)) for token in ids]
    assert decoder.nbytes == 2 * size, "it grew"
    scale = TOLERANCE * np.abs(whole).max()
    assert np.abs(np.stack(got) - whole[start:]).max() < scale
    fork = decoder.fork(start + 4, {})
    decoder.rewind(start + 4)
    for sequence in (decoder, fork):
        again = model.step(sequence, layout, int(ids[4]))
        assert np.abs(again - whole[start + 4]).max() < scale
    with pytest.raises(ValueError, match="length"):
        fork.rewind(start + 99)


def test_answers_are_the_largest_logits(model: Model):
    ids, logits = greedy_steps(model, PROMPT, [picture(70, 50)], 24)
    margins = np.sort(logits, axis=-1)
    assert (margins[:, -1] - margins[:, -2]).min() > 0, "a tie: this prompt proves nothing"
    answer = model.generate(PROMPT, images=[picture(70, 50)], max_new_tokens=24)
    assert answer.token_ids == ids


def test_an_answer_fetches_no_logits(model: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device_decoder.DeviceDecoder, "run", None)
    assert len(model.generate(PROMPT, images=[picture(70, 50)], max_new_tokens=4).token_ids) == 4


def test_a_penalty_looks_at_logits(package: Path, tmp_path: Path):
    model = Model(with_generation(package, tmp_path / "p", repetition_penalty=1e4), device="cpu")
    answer = model.generate(PROMPT, images=[picture(70, 50)], max_new_tokens=16)
    assert len(set(answer.token_ids)) == 16


def test_a_package_for_the_cpu_is_refused(small_package: Path, monkeypatch: pytest.MonkeyPatch):
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    with pytest.raises(DeviceError, match=r"exported for cpu; export it again with --device cuda"):
        Model(small_package, device="cuda")


def operators_by_provider(package: Path, device: str, folder: Path) -> dict[str, set[str]]:
    """Which provider ran which operators of an answer, by onnxruntime's own profile."""

    def profiled() -> Any:
        options = options_class()
        options.enable_profiling = True  # a file each: sessions are opened side by side
        options.profile_file_prefix = str(folder / f"profile_{next(serial)}")
        return options

    serial, options_class = count(), onnxruntime.SessionOptions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", profiled)
        model = Model(package, device=device)
    model.generate(PROMPT, images=[picture(70, 50)], max_new_tokens=3)
    found: dict[str, set[str]] = {}
    for session in model.backend._sessions.values():
        for event in json.loads(Path(session.end_profiling()).read_text("utf-8")):
            if "provider" in (said := event.get("args", {})):
                found.setdefault(said["provider"], set()).add(said["op_name"])
    return found


def test_the_profile_names_every_operator(package: Path, tmp_path: Path):
    found = operators_by_provider(package, "cpu", tmp_path)
    assert found.keys() == {"CPUExecutionProvider"}
    named = {"GroupQueryAttention", "MultiHeadAttention", "ArgMax", "LayerNormalization"}
    assert named <= found["CPUExecutionProvider"]


def _missing_gpu() -> str:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"not run: onnxruntime {onnxruntime.__version__} has no CUDAExecutionProvider here"
    try:
        onnxruntime.OrtValue.ortvalue_from_shape_and_type([1], np.float32, "cuda", 0)
    except Exception as error:  # noqa: BLE001  whatever the driver says
        return f"not run: no CUDA device: {str(error).splitlines()[0]}"
    return ""


MISSING = _missing_gpu()


@pytest.mark.gpu
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("family", MAKERS)
def test_on_a_gpu(checkpoints, tmp_path, family: str, precision: str):
    """On the device as on the CPU, and no operator fell back."""
    package = export(
        checkpoints(family), tmp_path / "p", precision=precision, block_size=32, device="cuda"
    )
    assert_near(outputs(package, "cuda"), outputs(package, "cpu"))
    on_host = operators_by_provider(package, "cuda", tmp_path).get("CPUExecutionProvider", set())
    assert on_host <= SIZE_OPERATORS, "these have no business on the CPU"
    model = Model(package, device="cuda")
    ids, _ = greedy_steps(model, PROMPT, [picture(70, 50)], 12)
    answer = model.generate(PROMPT, images=[picture(70, 50)], max_new_tokens=12)
    assert answer.token_ids == ids[: len(answer.token_ids)]
