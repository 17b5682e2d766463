"""Core ML packages through the interpreter: how programs are chosen, called, padded and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlrt
from support.coreml_package import BLOCK, LENGTH, Arithmetic, make_package
from support.pictures import picture
from vlrt_runtime.errors import (
    ContextLengthError,
    DeviceError,
    InputError,
    PackageError,
)
from vlrt_runtime.families.qwen2_vl_image import nearest_size
from vlrt_runtime.package import Package

SIZES = ((56, 84), (84, 56), (56, 56))
random = np.random.default_rng(2)


@pytest.fixture(scope="module", params=[1, 2], ids=["one program", "two programs"])
def made(
    small_package: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, Arithmetic]:
    folder = tmp_path_factory.mktemp("coreml") / "package"
    return make_package(small_package, folder, sizes=SIZES, chunks=request.param)


@pytest.fixture(scope="module")
def model(made: tuple[Path, Arithmetic]) -> vlrt.Model:
    return vlrt.load(made[0], device="mil-interpreter")


def sequence(made: Arithmetic, count: int) -> dict[str, Any]:
    return {
        "inputs_embeds": random.standard_normal((1, count, made.hidden)).astype(np.float32),
        "cos": random.uniform(0.5, 1, (1, count, made.half)).astype(np.float32),
    }


def part(inputs: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    return {
        "inputs_embeds": inputs["inputs_embeds"][:, start:stop],
        "cos": inputs["cos"][:, start:stop],
    }


@pytest.mark.parametrize("num_logits", [1, 3, 11])
def test_any_split_of_a_sequence_gives_the_same(
    model: vlrt.Model, made: tuple[Path, Arithmetic], num_logits: int
):
    inputs = sequence(made[1], 11)
    expected = made[1].logits(inputs["inputs_embeds"][0], inputs["cos"][0])
    decoder = model.backend.decoder({})
    found = decoder.run(inputs, num_logits=num_logits)
    # the cache is float16 in the file, and float32 where floats are kept exact
    np.testing.assert_allclose(found, expected[-num_logits:], rtol=1e-4, atol=1e-4)
    decoder = model.backend.decoder({})
    decoder.run(part(inputs, 0, 6))
    decoder.rewind(4)
    decoder.run(part(inputs, 4, 10))
    assert decoder.length == 10
    other = decoder.fork(9, {})
    decoder.run(sequence(made[1], 3))
    found = other.run(part(inputs, 9, 11), num_logits=2)
    np.testing.assert_allclose(found, expected[-2:], rtol=1e-4, atol=1e-4)


def test_the_cache_is_used_to_its_end_and_no_further(
    model: vlrt.Model, made: tuple[Path, Arithmetic]
):
    inputs = sequence(made[1], LENGTH)
    expected = made[1].logits(inputs["inputs_embeds"][0], inputs["cos"][0])
    decoder = model.backend.decoder({})
    assert LENGTH % BLOCK == 0
    decoder.run(part(inputs, 0, 2))  # so that blocks do not end where the cache does
    found = decoder.run(part(inputs, 2, LENGTH))
    np.testing.assert_allclose(found[0], expected[-1], rtol=1e-4, atol=1e-4)
    assert decoder.nbytes == LENGTH * made[1].hidden * 2
    with pytest.raises(ContextLengthError, match=f"{LENGTH + 1} positions: the package holds"):
        decoder.run(sequence(made[1], 1))


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (99, 101)])
def test_a_picture_takes_the_nearest_of_the_sizes(
    model: vlrt.Model, made: tuple[Path, Arithmetic], size: tuple[int, int]
):
    layout, pictures = model.prepare("What?", [picture(*size)])
    height, width = nearest_size(size[1], size[0], SIZES)
    assert pictures[0].grid == (1, height // 14, width // 14)
    features = model.encode(pictures[0])["image_features"]
    inputs = pictures[0].inputs
    pixels, cos = inputs["pixel_values"][0], inputs["cos"][0]
    expected = pixels @ made[1].encoder.astype(np.float32).T * cos.mean(-1, keepdims=True)
    np.testing.assert_allclose(features[0], expected, rtol=1e-4, atol=1e-4)
    embeds = model.projector({"image_features": features})["image_embeds"]
    assert embeds.shape == (1, layout.slots.sum(), made[1].hidden)


def test_an_answer_is_what_the_arithmetic_gives(model: vlrt.Model, made: tuple[Path, Arithmetic]):
    images = [picture(100, 60), picture(60, 100)]
    answer = model.generate("What?", images=images, max_new_tokens=4)
    layout, pictures = model.prepare("What?", images)
    projected = [model.projector(model.encode(each)) for each in pictures]
    embeds, ids = model.splice(layout, projected)[0], []
    for _ in range(4):
        cos = layout.inputs(embeds[None], 0)["cos"]
        token = int(np.argmax(made[1].logits(embeds, cos.reshape(len(embeds), -1))[-1]))
        if token in model.manifest.generation.stop_ids:
            break
        ids.append(token)
        embeds = np.concatenate([embeds, model.embed(np.array([token]))])
    assert answer.token_ids == ids
    assert answer.token_ids


def test_declared_types_round(made: tuple[Path, Arithmetic], model: vlrt.Model):
    rounded = vlrt.load(made[0], device="mil-interpreter", mil_precision="declared")
    inputs = sequence(made[1], 9)
    exact = model.backend.decoder({}).run(inputs)
    found = rounded.backend.decoder({}).run(inputs)
    # the cache is float16: eleven bits of each of its numbers
    assert 0 < np.abs(found - exact).max() < 2e-2


def test_pixel_limits_are_refused(made: tuple[Path, Arithmetic]):
    with pytest.raises(InputError, match="max_pixels: the package sees pictures at 84x56, 56x84"):
        vlrt.load(made[0], device="mil-interpreter", max_pixels=10000)


def test_verify_shows_the_reference_the_exported_size(
    made: tuple[Path, Arithmetic], small_qwen2_vl: Path
):
    pytest.importorskip("transformers")
    from vlrt.verify import verify

    found = verify(made[0], small_qwen2_vl, device="mil-interpreter", max_new_tokens=1)
    stages = {stage.name: stage.difference for stage in found.stages}
    assert found.prompt_equal
    assert stages["pixel_values"] < 1e-6
    # The arithmetic here is not the checkpoint's, and verify says so.
    assert 0.1 < stages["vision_encoder"] < 100


def test_nearest_sizes():
    assert nearest_size(100, 100, [(56, 56), (112, 112), (56, 112)]) == (112, 112)
    assert nearest_size(100, 141, [(100, 100), (100, 200)]) == (100, 100)
    assert nearest_size(100, 142, [(100, 100), (100, 200)]) == (100, 200)


# ------------------------------------------------------------------ devices, and what is refused


@pytest.mark.skipif("sys.platform == 'darwin'")
def test_elsewhere_it_is_interpreted_and_says_so(made: tuple[Path, Arithmetic]):
    with pytest.warns(UserWarning, match="Core ML runs on macOS only: here"):
        assert vlrt.Model(made[0], lazy=True).device == "mil-interpreter"
    with pytest.raises(DeviceError, match="use --device mil-interpreter here"):
        vlrt.load(made[0], device="coreml")


def test_devices_of_other_packages_are_refused(made: tuple[Path, Arithmetic], small_package: Path):
    with pytest.raises(InputError, match="device 'cuda': a package of Core ML programs takes"):
        vlrt.load(made[0], device="cuda")
    with pytest.raises(InputError, match="device 'mil-interpreter': a package of ONNX graphs"):
        vlrt.load(small_package, device="mil-interpreter")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_units": "gpu"}, "compute_units 'gpu': expected one of cpu-and-gpu"),
        ({"mil_precision": "fp8"}, "mil_precision 'fp8': expected one of fp32, declared"),
    ],
)
def test_unknown_options(made: tuple[Path, Arithmetic], options: dict[str, str], message: str):
    with pytest.raises(InputError, match=message):
        vlrt.load(made[0], device="mil-interpreter", **options)


def test_a_picture_of_another_size_names_the_sizes(model: vlrt.Model, made: Any):
    inputs = {
        "pixel_values": np.zeros((1, 4, made[1].encoder.shape[1]), np.float32),
        "cos": np.zeros((4, 4), np.float32),
    }
    with pytest.raises(InputError, match=r"exported for pixel_values of 1x.*, 1x24x.*, got 1x4x"):
        model.vision_encoder(inputs)


@pytest.fixture
def package(made: tuple[Path, Arithmetic], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "package"))


def test_a_damaged_program_is_refused_by_name(package: Path):
    file = package / "projector.mlpackage/Data/com.apple.CoreML/model.mlmodel"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    file.write_bytes(data)
    assert Package.open(package).damaged_files() == [file.relative_to(package).as_posix()]
    with pytest.raises(PackageError, match=r"projector\.mlpackage/.*model\.mlmodel: "):
        vlrt.load(package, device="mil-interpreter")
    file.unlink()
    with pytest.raises(PackageError, match=r"damaged: projector\.mlpackage/.*missing or a link"):
        Package.open(package)


@pytest.mark.parametrize(
    "name",
    ["a.mlpackage/../../b", "/a.mlpackage", "a.mlpackage//b", "folder/file", "c:/x.mlpackage"],
)
def test_names_that_lead_out_are_refused(package: Path, name: str):
    manifest = json.loads((package / "manifest.json").read_text("utf-8"))
    manifest["files"][name] = {"size": 0, "sha256": ""}
    (package / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(PackageError, match="is no plain file name"):
        Package.open(package)


def test_a_linked_folder_is_refused(package: Path, tmp_path: Path):
    moved = tmp_path / "elsewhere"
    shutil.move(package / "projector.mlpackage" / "Data", moved)
    (package / "projector.mlpackage" / "Data").symlink_to(moved, target_is_directory=True)
    with pytest.raises(PackageError, match="missing or a link"):
        Package.open(package)
