"""Calibration: the pieces of a graph see what the whole sees; what comes of it; what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

import vlrt
from support.tiny.kosmos2 import make_kosmos2
from support.tiny.llava import make_llava
from support.tiny.mllama import make_mllama
from support.tiny.qwen2_vl import make_qwen2_vl
from vlrt.calibrate import PicturePrompts, picture_files
from vlrt_export import calibrate
from vlrt_export.quantizers.gptq import Gram
from vlrt_runtime.errors import ImageError, InputError
from vlrt_runtime.manifest import read_manifest

GRAPHS = ("vision_encoder", "projector", "decoder")
MAKERS = {
    "kosmos2": make_kosmos2,
    "llava": make_llava,
    "mllama": make_mllama,
    "qwen2_vl": make_qwen2_vl,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate") / "it"
    return make_qwen2_vl(folder, vocabulary="small", shards=1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i, size in enumerate([(60, 90, 3), (84, 56, 3), (56, 56, 3)]):
        array = rng.integers(0, 255, size, dtype=np.uint8)
        Image.fromarray(array).save(folder / f"{i}.png")
    (folder / "1.txt").write_text("And here?\n")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "it"
    return vlrt.export(checkpoint, folder, precision="int8", accuracy_level=0)


def silent(what: str, done: int, total: int) -> None:
    assert 0 < done <= total, what


def whole(package: Path, prompts: PicturePrompts) -> dict[tuple[str, str], Gram]:
    """What each matrix meets, by graphs that are run as they are with every value an output."""
    grams: dict[tuple[str, str], Gram] = {}
    given = [prompts.picture(i) for i in range(len(prompts))]
    for graph in GRAPHS:
        if graph == "decoder":
            given = [prompts.prompt(i, outputs) for i, outputs in enumerate(given)]
        model = onnx.load(package / f"{graph}.onnx", load_external_data=False)
        taps = [
            (node.input[0], node.input[1], node.attribute)
            for node in model.graph.node
            if node.op_type == "MatMulNBits"
        ]
        own = {value.name for value in [*model.graph.output, *model.graph.input]}
        names = [value.name for value in model.graph.output]
        extra = sorted({value for value, _, _ in taps} - own)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
        path = package / "whole.onnx"
        path.write_bytes(model.SerializeToString())
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        path.unlink()
        following = []
        for inputs in given:
            results = dict(zip(names + extra, session.run(names + extra, inputs), strict=True))
            for value, parameter, attributes in taps:
                k = next(a.i for a in attributes if a.name == "K")
                gram = grams.setdefault((graph, parameter), Gram(k))
                gram.add((results if value in results else inputs)[value])
            following.append({name: results[name] for name in names})
        given = following
    return grams


@pytest.mark.parametrize("piece_bytes", [1, 20_000, 1 << 30])
def test_pieces_see_what_the_whole_sees(package, pictures, tmp_path, monkeypatch, piece_bytes):
    monkeypatch.setattr(calibrate, "PIECE_BYTES", piece_bytes)
    prompts = PicturePrompts(package, picture_files(pictures))
    found = calibrate.collect(package, prompts, GRAPHS, tmp_path / "factors", silent)
    expected = whole(package, prompts)
    assert len(expected) > 10
    for (graph, parameter), gram in expected.items():
        factor = found[graph](parameter)
        np.testing.assert_allclose(factor, gram.factor(), rtol=2e-3, atol=1e-3 * factor.max())
    assert {path.suffix for path in (tmp_path / "factors").iterdir()} == {".npy"}
    assert not list((tmp_path / "factors").glob("value-*"))


def test_pieces_are_many_or_one(package):
    model = onnx.load(package / "decoder.onnx", load_external_data=False)
    (one,) = calibrate.pieces(model, [], tapped=True)
    assert len(one.taps) == 4 * 3 + 1
    assert one.outputs == []
    assert [n for n in one.nodes if n.output[0] == "logits"] == []  # nobody needs the head's result
    assert calibrate.pieces(model, [], tapped=False) == []


def test_questions_lie_beside_pictures_and_answers_follow(package, pictures):
    prompts = PicturePrompts(package, picture_files(pictures))
    assert len(prompts) == 3
    texts = [prompts._question(i) for i in range(3)]
    assert texts[1] == "And here?"
    model = vlrt.load(package)
    answer = model.generate(texts[1], images=[pictures / "1.png"], max_new_tokens=32)
    inputs = prompts.prompt(1, model.projector(model.vision_encoder(prompts.picture(1))))
    length = answer.prompt_tokens + len(answer.token_ids)
    assert inputs["inputs_embeds"].shape[1] == length
    assert inputs["total_sequence_length"].tolist() == [length]
    np.testing.assert_array_equal(
        inputs["inputs_embeds"][0, answer.prompt_tokens :], model.embed(np.array(answer.token_ids))
    )


@pytest.mark.parametrize("family", MAKERS)
def test_every_family_can_be_calibrated(family, pictures, tmp_path):
    source = MAKERS[family](tmp_path / "it")
    out = vlrt.export(source, tmp_path / "out", calibrate=pictures, vision="int4", block_size=32)
    manifest = read_manifest(out)
    made = {name: spec.precision.quantizer for name, spec in manifest.graphs.items()}
    assert made == {"vision_encoder": "gptq", "projector": "rtn", "decoder": "gptq"}
    assert sorted(path.name for path in out.iterdir()) == sorted([*manifest.files, "manifest.json"])
    plain = vlrt.export(source, tmp_path / "plain", vision="int4", block_size=32)
    for graph in ("decoder", "vision_encoder"):
        names = (f"{graph}.onnx", f"{graph}.onnx.data")
        assert (out / names[0]).read_bytes() == (plain / names[0]).read_bytes()
        assert (out / names[1]).read_bytes() != (plain / names[1]).read_bytes()
    assert vlrt.load(out).generate("A", images=[pictures / "0.png"], max_new_tokens=2).token_ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantizer": "nope"}, "quantizer 'nope': expected one of rtn, mse, hqq, gptq"),
        ({"quantizer": "gptq"}, "quantizer gptq: it needs pictures; give --calibrate FOLDER"),
        ({"quantizer": "hqq", "calibrate": "."}, "quantizer hqq: it has no use for pictures"),
        ({"precision": "int8", "calibrate": "."}, "calibrate: no part is int4"),
        ({"calibrate": "empty"}, "empty: it holds no pictures"),
        ({"calibrate": "nowhere"}, "nowhere: no such folder"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(
    checkpoint, pictures, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(pictures)
    (pictures / "empty").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=message):
        vlrt.export(checkpoint, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_picture_leaves_nothing_behind(checkpoint, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"bad\.png"):
        vlrt.export(checkpoint, tmp_path / "out", calibrate=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_quantizers_by_name(checkpoint, tmp_path):
    data = set()
    for name in ("rtn", "mse", "hqq"):
        out = vlrt.export(checkpoint, tmp_path / name, quantizer=name, block_size=32)
        assert read_manifest(out).graphs["decoder"].precision.quantizer == name
        data.add((out / "decoder.onnx.data").read_bytes())
    assert len(data) == 3
    plain = vlrt.export(checkpoint, tmp_path / "plain", block_size=32)
    assert (plain / "decoder.onnx.data").read_bytes() in data
