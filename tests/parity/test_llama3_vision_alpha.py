"""llama-3-vision-alpha against a SigLIP, two linear layers and a Llama of transformers, float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.parity import assert_parity, greedy_steps
from support.pictures import checker, picture
from support.quantized import dequantized, rewrite
from support.tiny.llama3_vision_alpha import make_alpha, make_alpha_parts
from support.tiny.llama3_vision_alpha_text import GRID_PROMPT, QUESTION, QUESTION_IDS
from vlrt.verify import verify
from vlrt.verify.reference import Reference, load_reference
from vlrt_export.exporter import export
from vlrt_export.families.llama3_vision_alpha import FAMILY, canonical
from vlrt_runtime.errors import CheckpointError, CheckpointNotFoundError, InputError
from vlrt_runtime.manifest import Manifest, read_manifest
from vlrt_runtime.model import Model

IMAGE = {"type": "image"}
PROMPT = (
    "<|start_header_id|>user<|end_header_id|>\n\n<image>{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


def turn(role: str, *parts: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"role": role, "content": content}


ONE = ([turn("user", IMAGE, QUESTION)], [picture(500, 336)])
CHATS = {
    "long question": ([turn("user", IMAGE, GRID_PROMPT)], [picture(90, 260)]),
    "second turn": (
        [turn("user", IMAGE, "What?"), turn("assistant", "A."), turn("user", "And?")],
        [checker(384, 384)],
    ),
    "picture in the second turn": (
        [turn("user", "Hi"), turn("assistant", "A."), turn("user", "This", IMAGE, "?")],
        [checker(40, 30)],
    ),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_alpha(tmp_path_factory.mktemp("alpha") / "checkpoint", vocabulary="small", shards=1)


@pytest.fixture(scope="module")
def package(small: Path) -> Path:
    return export(small, small.parent / "fp32", precision="fp32")


@pytest.fixture(scope="module")
def model(package: Path) -> Model:
    return Model(package, threads=1)


@pytest.fixture(scope="module")
def reference(small: Path) -> Reference:
    return load_reference(small, "llama3_vision_alpha")


def test_every_stage_and_32_tokens(model: Model, reference: Reference):
    run = assert_parity(model, reference, *ONE)
    assert len(set(run.token_ids)) > 8


@pytest.mark.parametrize("chat", CHATS)
def test_every_stage(model: Model, reference: Reference, chat: str):
    assert_parity(model, reference, *CHATS[chat], new_tokens=6)


def test_the_published_ids(tmp_path: Path):
    folder = make_alpha(tmp_path / "checkpoint")
    model = Model(export(folder, tmp_path / "package", precision="int8"), threads=1)
    text = model.chat_text(ONE[0])
    assert text == PROMPT.format(QUESTION)
    assert model.family.token_ids(text, 1, model.codec) == QUESTION_IDS
    ids = model.family.token_ids(PROMPT.format(GRID_PROMPT), 1, model.codec)
    assert len(ids) == 119
    assert [place for place, token in enumerate(ids) if token == -200] == [5]
    assert ids[-5:] == [128009, 128006, 78191, 128007, 271]
    layout, pictures = model.prepare(GRID_PROMPT, [picture(64, 48)])
    assert len(layout.token_ids) == 118 + 729 == 847
    assert int(layout.slots.sum()) == pictures[0].tokens == 729
    assert pictures[0].grid == (1, 27, 27)
    assert model.manifest.generation.stop_ids == (128001, 128009)
    assert len(model.generate(QUESTION, images=ONE[1], max_new_tokens=3).token_ids) == 3


def test_prefill_and_steps_equal_one_full_pass(model: Model, reference: Reference):
    ids, rows = greedy_steps(model, *ONE, 8)
    inputs = reference.inputs(*ONE)
    full = reference.forward_logits(inputs, ids[:-1])[len(inputs.token_ids) - 1 :]
    assert np.abs(rows - full).max() < 2e-4


def same(one: Manifest, other: Manifest) -> bool:
    """All but where it came from and what it is called."""
    parts = ("files", "graphs", "tokens", "special_tokens", "image", "rope", "generation")
    return all(getattr(one, part) == getattr(other, part) for part in parts)


@pytest.mark.parametrize("kind", ["safetensors", "torch", "torch parameters", "inner names"])
def test_three_parts_make_the_same_package(package: Path, tmp_path: Path, kind: str):
    import torch
    from safetensors.torch import load_file

    parts = make_alpha_parts(tmp_path / "parts", vocabulary="small")
    file = parts.projector_file
    if kind != "safetensors":
        tensors: dict[str, Any] = load_file(file)
        if kind == "torch parameters":
            tensors = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
        if kind == "inner names":  # as LLaVA's training saves it
            names = {name: f"model.{name.replace('model.', '')}" for name in tensors}
            tensors = {names[name]: tensor for name, tensor in tensors.items()}
        file = tmp_path / "mm_projector.bin"
        torch.save(tensors, file)
    made = read_manifest(
        export(
            parts.language_model,
            tmp_path / "package",
            precision="fp32",
            vision_tower=parts.vision_tower,
            projector_file=file,
        )
    )
    assert same(made, read_manifest(package))
    names = {"config.json", "vision_tower/config.json", "vision_tower/model.safetensors"}
    assert names < set(made.source.files)
    assert f"projector/{file.name}" in made.source.files


def test_parts_on_the_command_line(tmp_path: Path, package: Path, capsys: Any):
    from vlrt.cli import main

    parts = make_alpha_parts(tmp_path / "parts", vocabulary="small")
    base, tower, projector = map(str, parts)
    command = ["export", base, "--precision", "fp32", "-o", str(tmp_path / "package")]
    assert main([*command, "--vision-tower", tower]) == 2
    assert "--projector-file is missing" in capsys.readouterr().err
    assert main([*command, "--vision-tower", tower, "--projector-file", projector]) == 0
    assert same(read_manifest(tmp_path / "package"), read_manifest(package))


def test_names_of_the_projector():
    for name in ("mm_projector.model.0.weight", "model.mm_projector.0.weight", "0.weight"):
        assert canonical(f"mm_projector.{name}") == "mm_projector.0.weight"
    assert canonical("mm_projector.2.bias") == "mm_projector.2.bias"
    assert canonical("vision_model.text_model.head.weight") is None
    assert canonical("vision_model.vision_model.head.probe") == "vision_tower.head.probe"
    assert canonical("vision_model.head.probe") == "vision_tower.head.probe"


def test_parts_that_are_missing(tmp_path: Path):
    parts = make_alpha_parts(tmp_path / "parts", vocabulary="small")
    target = tmp_path / "package"
    with pytest.raises(InputError, match=r"^--projector-file is missing: .* give all three"):
        export(parts.language_model, target, vision_tower=parts.vision_tower)
    with pytest.raises(InputError, match=r"^--vision-tower is missing"):
        export(parts.language_model, target, projector_file=parts.projector_file)
    with pytest.raises(CheckpointNotFoundError, match=r"none\.bin: no such file"):
        export(
            parts.language_model,
            target,
            vision_tower=parts.vision_tower,
            projector_file=tmp_path / "none.bin",
        )
    with pytest.raises(CheckpointError, match="lacks 4 tensors: mm_projector"):
        export(
            parts.language_model,
            target,
            vision_tower=parts.vision_tower,
            projector_file=parts.vision_tower / "model.safetensors",
        )
    assert not target.exists()


def test_another_tower_is_refused(small: Path, tmp_path: Path):
    config = json.loads((small / "config.json").read_text())
    config["vision_config"]["model_type"] = "clip_vision_model"
    with pytest.raises(CheckpointError, match="'clip_vision_model', expected siglip_vision_model"):
        FAMILY.config(config)


@pytest.mark.parametrize(
    ("text", "pictures", "message"),
    [
        ("Hi", 0, "0 picture placeholders, 0 pictures given; this model takes exactly one"),
        ("Hi", 1, "0 picture placeholders, 1 pictures given"),
        ("<image>Hi", 0, "1 picture placeholders, 0 pictures given"),
        ("<image><image>Hi", 2, "2 picture placeholders, 2 pictures given"),
        ("<image>Hi", 2, "1 picture placeholders, 2 pictures given"),
    ],
)
def test_exactly_one_picture(model: Model, text: str, pictures: int, message: str):
    with pytest.raises(InputError, match=message):
        model.generate(text, images=ONE[1] * pictures, raw=True)


def test_two_pictures_in_a_chat(model: Model):
    with pytest.raises(InputError, match="2 picture placeholders, 2 pictures given"):
        model.generate(QUESTION, images=ONE[1] * 2)


def test_defaults_are_those_of_the_class():
    from transformers import SiglipVisionConfig

    from vlrt_export.layers.vit import SIGLIP

    for name in vars(SIGLIP):
        if name not in ("class_token", "pre_norm", "patch_bias"):
            assert getattr(SIGLIP, name) == getattr(SiglipVisionConfig(), name), name


def test_verify(package: Path, small: Path):
    found = verify(package, small, threads=1, max_new_tokens=4)
    assert found.prompt_equal
    assert found.divergence is None
    assert found.stages[0].difference == 0
    assert all(stage.difference < 1e-4 < stage.scale for stage in found.stages[1:])


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_codes_stand_for_their_weights(small: Path, tmp_path: Path, kind: str):
    def change(name: str, rows: np.ndarray) -> np.ndarray:
        bits = 4 if kind == "int4" and name.startswith("text_model.") else 8
        return dequantized(rows, bits, 32)

    folder = rewrite(small, tmp_path / "dequantized", change)
    made = export(small, tmp_path / "p", precision=kind, block_size=32, accuracy_level=0)
    reference = load_reference(folder, "llama3_vision_alpha")
    assert_parity(Model(made, threads=1), reference, *ONE, new_tokens=1)
