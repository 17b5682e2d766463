"""LLaVA-1.5 against transformers in float32: stages, layouts, several pictures, quantised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support.parity import assert_parity, greedy_steps
from support.pictures import checker, gradient, picture
from support.quantized import dequantized, rewrite
from support.tiny.llava import Layout, make_llava
from support.tiny.llava_text import PINNED_IDS, QUESTION
from vlrt.verify import verify
from vlrt.verify.reference import Reference, load_reference
from vlrt_export.exporter import export
from vlrt_export.families.llava import Config
from vlrt_runtime.errors import CheckpointError, ImageError, InputError
from vlrt_runtime.model import Model
from vlrt_runtime.package import Package

IMAGE = {"type": "image"}


def turn(role: str, *parts: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"role": role, "content": content}


ONE = ([turn("user", IMAGE, QUESTION)], [picture(500, 336)])
CHATS = {
    "two pictures": (
        [turn("user", IMAGE, IMAGE, "What changed?")],
        [picture(150, 400), gradient(60, 40)],
    ),
    "text only": ([turn("user", "What is A?")], []),
    "second turn": (
        [turn("user", IMAGE, "What is this?"), turn("assistant", "A."), turn("user", "And?")],
        [checker(340, 336)],
    ),
}


@pytest.fixture(scope="module")
def package(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny_llava, tmp_path_factory.mktemp("llava") / "fp32", precision="fp32")


@pytest.fixture(scope="module")
def model(package: Path) -> Model:
    return Model(package, threads=1)


@pytest.fixture(scope="module")
def reference(tiny_llava: Path) -> Reference:
    return load_reference(tiny_llava, "llava")


def test_the_published_ids_and_32_tokens(model: Model, reference: Reference):
    layout, pictures = model.prepare(QUESTION, ONE[1])
    assert layout.token_ids.tolist() == PINNED_IDS
    assert len(PINNED_IDS) == 595
    assert pictures[0].inputs["pixel_values"].shape == (1, 3, 336, 336)
    assert (pictures[0].tokens, pictures[0].grid) == (576, (1, 24, 24))
    run = assert_parity(model, reference, *ONE)
    assert len(set(run.token_ids)) > 8


@pytest.mark.parametrize("chat", CHATS)
def test_every_stage(model: Model, reference: Reference, chat: str):
    assert_parity(model, reference, *CHATS[chat], new_tokens=6)


def test_prefill_and_steps_equal_one_full_pass(model: Model, reference: Reference):
    ids, rows = greedy_steps(model, *ONE, 8)
    inputs = reference.inputs(*ONE)
    full = reference.forward_logits(inputs, ids[:-1])[len(inputs.token_ids) - 1 :]
    assert np.abs(rows - full).max() < 2e-4


@pytest.mark.parametrize("layout", get_args(Layout))
def test_every_layout_makes_the_same_package(
    package: Path, tmp_path: Path, layout: Layout, tiny_llava: Path
):
    folder = make_llava(tmp_path / "checkpoint", layout=layout, shards=1)
    made = Package.open(export(folder, tmp_path / "package", precision="fp32")).manifest
    wanted = Package.open(package).manifest
    assert made.files == wanted.files
    for part in ("tokens", "image", "rope", "generation", "special_tokens", "graphs"):
        assert getattr(made, part) == getattr(wanted, part), part


@pytest.mark.parametrize("layout", ["transformers5", "transformers4"])
def test_layouts_are_what_transformers_reads(tmp_path: Path, layout: Layout, reference: Reference):
    """`load_reference` refuses missing and unexpected tensors."""
    other = load_reference(make_llava(tmp_path / "checkpoint", layout=layout), "llava")
    text = CHATS["text only"]
    assert np.array_equal(
        other.forward_logits(other.inputs(*text)), reference.forward_logits(reference.inputs(*text))
    )


def test_sparse_configuration_means_the_defaults_of_the_class():
    from transformers import LlavaConfig

    sparse = {
        "model_type": "llava",
        "image_token_index": 32000,
        "text_config": {
            "model_type": "llama",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05,
            "vocab_size": 32064,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
        "tie_word_embeddings": False,
    }
    ours, theirs = Config.read(sparse), LlavaConfig(**json.loads(json.dumps(sparse)))
    for name in vars(ours.decoder):
        assert getattr(ours.decoder, name) == getattr(theirs.text_config, name), name
    for name in vars(ours.vision):
        if name not in ("class_token", "pre_norm", "patch_bias"):
            assert getattr(ours.vision, name) == getattr(theirs.vision_config, name), name
    assert ours.vision_feature_layer == theirs.vision_feature_layer == -2
    assert theirs.vision_feature_select_strategy == "default"
    assert ours.skip_class
    assert ours.projector_hidden_act == theirs.projector_hidden_act == "gelu"
    assert ours.decoder.num_hidden_layers == ours.decoder.num_attention_heads == 32
    assert (ours.decoder.hidden_size, ours.decoder.intermediate_size) == (4096, 11008)
    assert Config.read({"text_config": {}, "vision_config": {}}).vision == _clip_defaults()


def _clip_defaults() -> Any:
    from transformers import CLIPVisionConfig

    from vlrt_export.layers.vit import CLIP

    for name in vars(CLIP):
        if name not in ("class_token", "pre_norm", "patch_bias"):
            assert getattr(CLIP, name) == getattr(CLIPVisionConfig(), name), name
    return CLIP


def test_the_last_layer_is_left_out(package: Path, tiny_llava: Path):
    config = json.loads((tiny_llava / "config.json").read_text())["vision_config"]
    width, inner = config["hidden_size"], config["intermediate_size"]
    layer = 4 * (width + 1) * width + 2 * 2 * width + 2 * inner * width + inner + width
    ends = (3 * 14 * 14 + 1 + 577 + 2) * width  # patches, class, positions, pre_layrnorm
    graphs = Package.open(package).manifest.graphs
    assert graphs["vision_encoder"].parameters == 3 * layer + ends


def test_a_tensor_of_no_part_is_named(tmp_path: Path):
    folder = make_llava(tmp_path / "checkpoint", shards=1)
    tensors = load_file(folder / "model.safetensors")
    tensors["vision_tower.vision_model.adapter.weight"] = np.zeros((2, 2), np.float32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no part of llava .* 1 tensor: .*adapter\.weight"):
        export(folder, tmp_path / "package")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_feature_layer": [-2, -5]}, r"vision_feature_layer \[-2, -5\], expected one"),
        ({"vision_feature_layer": -7}, "vision_feature_layer -7, expected one number from -5 to 4"),
        ({"vision_feature_select_strategy": "cls"}, "select_strategy 'cls', expected"),
        ({"projector_hidden_act": "tanh"}, "activation 'tanh', expected one of"),
        ({"text_config": {"model_type": "mistral"}}, "model_type 'mistral', expected llama"),
        ({"text_config": {"rope_scaling": {"type": "linear"}}}, "rope 'linear', expected default"),
        ({"vision_config": {"image_size": 224}}, "expected pictures of 224x224"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "expected clip_vision_model"),
    ],
)
def test_configurations_that_are_not_llava(
    tmp_path: Path, tiny_llava: Path, changes: dict[str, Any], message: str
):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in tiny_llava.iterdir():
        (folder / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        export(folder, tmp_path / "package")


def test_a_checkpoint_without_template_gets_the_published_prompt(tmp_path: Path, model: Model):
    folder = make_llava(tmp_path / "checkpoint", template=False)
    other = Model(export(folder, tmp_path / "package", precision="int8"), threads=1)
    for messages, _ in (ONE, *CHATS.values()):
        assert other.chat_text(messages) == model.chat_text(messages)
    assert other.chat_text(ONE[0]) == f"USER: <image>\n{QUESTION} ASSISTANT:"


def test_placeholders_and_pictures_are_counted(model: Model):
    with pytest.raises(InputError, match="1 picture placeholders, 2 pictures given"):
        model.generate("USER: <image>\nHi ASSISTANT:", images=ONE[1] * 2, raw=True)
    with pytest.raises(InputError, match="1 picture placeholders, 0 pictures given"):
        model.generate("USER: <image>\nHi ASSISTANT:", raw=True)
    with pytest.raises(
        ImageError, match=r"3x301 has an aspect ratio of 100\.333; expected at most"
    ):
        model.generate("Hi", images=[picture(3, 301)])


def test_pixel_limits_are_refused(package: Path):
    with pytest.raises(InputError, match="max_pixels: fp32 sees every picture at 336x336"):
        Model(package, max_pixels=1000)


def test_verify(package: Path, tiny_llava: Path):
    found = verify(package, tiny_llava, threads=1, max_new_tokens=4)
    assert found.prompt_equal
    assert found.divergence is None
    assert found.stages[0].difference == 0
    assert all(stage.difference < 1e-4 < stage.scale for stage in found.stages[1:])


@pytest.mark.parametrize(("kind", "block"), [("int8", 32), ("int4", 32)])
def test_codes_stand_for_their_weights(tmp_path: Path, kind: str, block: int):
    folder = make_llava(tmp_path / "checkpoint", shards=1)

    def change(name: str, rows: np.ndarray) -> np.ndarray:
        bits = 4 if kind == "int4" and name.startswith("language_model.") else 8
        return dequantized(rows, bits, block)

    reference = load_reference(rewrite(folder, tmp_path / "dequantized", change), "llava")
    made = export(folder, tmp_path / "p", precision=kind, block_size=block, accuracy_level=0)
    assert_parity(Model(made, threads=1), reference, *ONE, new_tokens=1)
