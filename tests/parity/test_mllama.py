"""Llama 3.2 Vision against transformers in float32: tiles, masks, turns, spellings of names."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest

from support.parity import assert_parity, greedy_steps
from support.pictures import checker, gradient, picture
from support.quantized import dequantized, rewrite
from support.tiny.mllama import RATIOS, Layout, make_mllama
from support.tiny.mllama_text import BASE_IDS, BASE_PROMPT, PINNED_IDS, QUESTION, Tokens
from vlrt.verify import verify
from vlrt.verify.mllama import MllamaReference
from vlrt.verify.reference import load_reference
from vlrt_export.exporter import export
from vlrt_runtime.errors import InputError
from vlrt_runtime.model import Model
from vlrt_runtime.text import TextCodec

torch = pytest.importorskip("torch", reason="the reference is transformers on torch")

IMAGE = {"type": "image"}


def user(*parts: Any) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts],
    }


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


CHATS = {
    "one picture": ([user(IMAGE, "What is this?")], [picture(150, 100)]),
    "two side by side": (
        [user(IMAGE, IMAGE, "What changed?")],
        [picture(150, 100), gradient(60, 200)],
    ),
    "rows before the picture": ([user("Look: ", IMAGE, " and tell.")], [checker(40, 40)]),
    "two apart": (
        [user("A ", IMAGE, " b ", IMAGE, " c")],
        [checker(40, 40), picture(300, 60)],
    ),
    "a picture in the second turn": (
        [user(IMAGE, "And this?"), assistant("A."), user("Now ", IMAGE)],
        [picture(60, 60), checker(120, 80)],
    ),
    "text only": ([user("Describe nothing.")], []),
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def package(small_mllama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small_mllama, tmp_path_factory.mktemp("parity") / "fp32", precision="fp32")


@pytest.fixture(scope="module")
def model(package: Path) -> Model:
    return Model(package, threads=1)


def reference_of(folder: Path) -> MllamaReference:
    reference = load_reference(folder, "mllama")
    assert isinstance(reference, MllamaReference)
    return reference


@pytest.fixture(scope="module")
def reference(small_mllama: Path) -> MllamaReference:
    return reference_of(small_mllama)


@pytest.mark.parametrize("chat", CHATS)
def test_every_stage_and_32_tokens(model: Model, reference: MllamaReference, chat: str):
    messages, images = CHATS[chat]
    run = assert_parity(model, reference, messages, images)
    assert len(set(run.token_ids)) > 6


@pytest.mark.parametrize("ratio", RATIOS)
def test_every_arrangement_of_tiles(model: Model, reference: MllamaReference, ratio: list[int]):
    rows, columns = ratio
    messages, images = [user("What", IMAGE, "?")], [picture(56 * columns - 9, 56 * rows - 9)]
    _, pictures = model.prepare(messages, images)
    assert pictures[0].grid == (1, rows, columns)
    assert pictures[0].inputs["aspect_ratio_id"].tolist() == [RATIOS.index(ratio) + 1]
    assert_parity(model, reference, messages, images, new_tokens=1)


def test_the_features_are_inputs_of_the_layers_named(
    model: Model, reference: MllamaReference, small_mllama: Path
):
    """What the manifest says; transformers 5 by itself takes their outputs, which differ."""
    image = model.manifest.image
    assert image["intermediate_features"] == "layer inputs"
    assert image["intermediate_layers_indices"] == [1, 3]
    vision = reference.model.model.vision_model
    assert vision.intermediate_layers_indices == [0, 2]
    messages, images = CHATS["one picture"]
    _, pictures = model.prepare(messages, images)
    got = model.encode(pictures[0])["image_features"][0]
    vision.intermediate_layers_indices = [1, 3]
    try:
        other = reference.run(reference.inputs(messages, images), 1).vision_features[0]
    finally:
        vision.intermediate_layers_indices = [0, 2]
    assert np.abs(got - other)[:, :48].max() < 1e-4  # the last layer's own
    assert np.abs(got - other)[:, 48:].max() > 0.1


def test_the_published_ids(tiny_mllama: Path, tmp_path: Path):
    """The pinned prompts, at real ids, with exactly one BOS each; 32 equal tokens."""
    model = Model(export(tiny_mllama, tmp_path / "package", precision="fp32"), threads=1)
    reference = reference_of(tiny_mllama)
    messages, images = [user(IMAGE, QUESTION)], [picture(150, 100)]
    layout, pictures = model.prepare(QUESTION, images)
    assert layout.token_ids.tolist() == PINNED_IDS
    # The processor's own way puts the tokenizer's BOS before the template's: 18 ids.
    text = reference.processor.apply_chat_template(messages, add_generation_prompt=True)
    theirs = reference.processor(text=text, images=images)["input_ids"][0]
    assert list(theirs) == [128000, *PINNED_IDS]
    assert pictures[0].tokens == 1
    assert not layout.slots.any()
    layout, _ = model.prepare(BASE_PROMPT, images, raw=True)
    assert layout.token_ids.tolist() == BASE_IDS
    assert_parity(model, reference, messages, images)
    expected = reference.run(reference.raw_inputs(BASE_PROMPT, images), 16)
    answer = model.generate(BASE_PROMPT, images=images, raw=True, max_new_tokens=16)
    assert answer.token_ids == expected.token_ids


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("<|image|>a", ["image", "bos", 64]),
        ("<|image|><|image|>a", ["image", "image", "bos", 64]),
        ("<|image|><|begin_of_text|>a", ["image", "bos", 64]),
        ("<|begin_of_text|><|image|>a", ["bos", "image", 64]),
        ("a<|image|>", ["bos", 64, "image"]),
        ("a", ["bos", 64]),
    ],
)
def test_every_raw_prompt_has_one_bos(
    model: Model, tmp_path: Path, adds_bos: bool, text: str, ids: list[Any]
):
    """Where the processor puts it, whether or not the tokenizer adds one."""
    path, tokens = tmp_path / "tokenizer.json", Tokens("small")
    path.write_text(json.dumps(tokens.tokenizer(adds_bos=adds_bos)))
    codec = TextCodec(path, "<|begin_of_text|>")
    named = {"image": 512, "bos": 480}
    wanted = [named.get(i, i) for i in ids]
    assert model.family.token_ids(text, text.count("<|image|>"), codec) == wanted


def test_without_a_picture_the_cross_layers_are_not_there(
    model: Model, reference: MllamaReference, package: Path
):
    """Skipped whole: text by itself answers as the model whose cross layers are taken out."""
    cross = [node for node in decoder_nodes(package) if node.op_type == "If"]
    assert len(cross) == 2
    for node in cross:
        skip = next(a.g for a in node.attribute if a.name == "else_branch")
        assert [inner.op_type for inner in skip.node] == ["Identity"]
    layout, _ = model.prepare("Describe nothing.")
    states = model.decoder().run(layout.inputs(model.splice(layout, []), 0))
    inner = reference.model.model.language_model
    inputs = reference.inputs([user("Describe nothing.")])
    kept = inner.layers
    inner.layers = torch.nn.ModuleList([kept[i] for i in (0, 2, 3, 5)])
    crosses, inner.cross_attention_layers = inner.cross_attention_layers, []
    try:
        bare = reference.forward_logits(inputs)
    finally:
        inner.layers, inner.cross_attention_layers = kept, crosses
    assert np.abs(states[0] - bare[-1]).max() < 1e-4


def decoder_nodes(package: Path) -> list[onnx.NodeProto]:
    return list(onnx.load(package / "decoder.onnx", load_external_data=False).graph.node)


def test_keys_and_values_are_made_once_and_never_copied(model: Model):
    messages, images = CHATS["one picture"]
    layout, pictures = model.prepare(messages, images)
    projected = [model.projector(model.encode(pictures[0]))]
    decoder = model.decoder(projected)
    for name, array in projected[0].items():
        bound, value = decoder._inputs[name]
        assert bound is array
        assert value.data_ptr() == array.ctypes.data
        assert array.shape == (1, 2, 4 * 17, 16)
    before = {name: array.copy() for name, array in projected[0].items()}
    decoder.run(layout.inputs(model.splice(layout, projected), 0))
    decoder.run(layout.inputs(model.embed(np.array([5]))[None], decoder.length))
    assert all(np.array_equal(before[name], array) for name, array in projected[0].items())


def test_prefill_and_steps_equal_one_full_pass(model: Model, reference: MllamaReference):
    messages, images = CHATS["two apart"]
    ids, rows = greedy_steps(model, messages, images, 12)
    inputs = reference.inputs(messages, images)
    full = reference.forward_logits(inputs, ids[:-1])[len(inputs.token_ids) - 1 :]
    assert np.abs(rows - full).max() < 2e-4


@pytest.mark.parametrize("rows", [1, 3, 7, 1000])
def test_a_prompt_in_pieces_is_the_prompt(model: Model, rows: int):
    messages, images = CHATS["two apart"]
    layout, pictures = model.prepare(messages, images)
    assert layout.prefill_rows == 128
    projected = [model.projector(model.encode(picture)) for picture in pictures]
    embeds = model.splice(layout, projected)
    whole = model.decoder(projected).run(layout.inputs(embeds, 0)).copy()
    pieces = model.prefill(model.decoder(projected), replace(layout, prefill_rows=rows), embeds)
    assert pieces.shape == whole.shape
    assert np.abs(pieces - whole).max() < 1e-4


def test_unused_tiles_and_the_filling_are_seen(model: Model):
    """The mask hides padding from padding only: a used tile's features follow an unused one."""
    _, pictures = model.prepare("?", [checker(40, 40)])
    assert pictures[0].grid == (1, 1, 1)
    inputs = dict(pictures[0].inputs)
    before = model.vision_encoder(inputs)["image_features"]
    tiles = inputs["pixel_values"].copy()
    tiles[0, 3] += 1
    after = model.vision_encoder(inputs | {"pixel_values": tiles})["image_features"]
    assert np.abs(after - before)[0, :17].max() > 0.1


@pytest.mark.parametrize("layout", get_args(Layout))
def test_every_layout_of_the_checkpoint(tmp_path: Path, layout: Layout):
    shards = 1 + (layout != "published")
    folder = make_mllama(tmp_path / "checkpoint", layout=layout, vocabulary="small", shards=shards)
    model = Model(export(folder, tmp_path / "package", precision="fp32"), threads=1)
    messages, images = CHATS["two apart"]
    assert_parity(model, reference_of(folder), messages, images, new_tokens=4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_checkpoints(tmp_path: Path, dtype: Any):
    folder = make_mllama(tmp_path / "checkpoint", dtype=dtype, vocabulary="small")
    model = Model(export(folder, tmp_path / "package", precision="fp32"), threads=1)
    messages, images = CHATS["one picture"]
    assert_parity(model, reference_of(folder), messages, images, new_tokens=4)


@pytest.mark.parametrize(
    "changes",
    [
        {"text": {"cross_attention_layers": [0, 5]}},  # first and last
        {"text": {"cross_attention_layers": [2]}},
        {"text": {"rope_scaling": None}},
        {
            "vision": {
                "image_size": 84,
                "intermediate_layers_indices": [3, 1, 2],
                "vision_output_dim": 192,
            }
        },
    ],
)
def test_other_shapes(tmp_path: Path, changes: dict[str, Any]):
    folder = make_mllama(tmp_path / "checkpoint", vocabulary="small", **changes)
    model = Model(export(folder, tmp_path / "package", precision="fp32"), threads=1)
    messages, images = CHATS["two apart"]
    assert_parity(model, reference_of(folder), messages, images, new_tokens=1)


def test_a_system_message_stands_alone(model: Model, reference: MllamaReference):
    """As text, which is all that the published template takes; beside a picture it refuses it."""
    messages = [{"role": "system", "content": "Be brief."}, user("Why?")]
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    layout, _ = model.prepare(messages)
    assert layout.token_ids.tolist() == reference.inputs(plain).token_ids
    assert "Be brief.<|eot_id|>" in model.chat_text([messages[0], plain[1]])
    with pytest.raises(InputError, match="system message"):
        model.prepare([messages[0], user(IMAGE, "Why?")], [checker(40, 40)])


def test_pictures_and_places_are_counted(model: Model):
    with pytest.raises(InputError, match=r"1 picture placeholders, 0 pictures given"):
        model.prepare("<|image|>a", raw=True)
    with pytest.raises(InputError, match=r"0 picture placeholders, 1 pictures given"):
        model.prepare("a", [checker(40, 40)], raw=True)


def test_pixel_limits_are_refused(package: Path):
    with pytest.raises(InputError, match=r"max_pixels: .* 4 tiles of 56x56; leave the limit out"):
        Model(package, max_pixels=1000)


@pytest.mark.parametrize(("kind", "block"), [("int8", 128), ("int4", 32)])
def test_codes_stand_for_their_weights(tmp_path: Path, kind: str, block: int):
    """Tile tables are halved; keys and values are the projector's, and stay at 8 bits."""
    folder = make_mllama(tmp_path / "checkpoint", vocabulary="small", shards=1)

    def change(name: str, rows: np.ndarray) -> np.ndarray:
        if name.endswith((".embedding.weight", ".tile_embedding.weight")):
            return rows.astype(np.float16).astype(np.float32)
        if name.endswith("gated_positional_embedding.embedding"):
            return rows
        projected = re.search(r"cross_attn\.[kv]_proj", name)
        decoder = name.startswith("language_model.") and not projected
        return dequantized(rows, 4 if kind == "int4" and decoder else 8, block)

    reference = reference_of(rewrite(folder, tmp_path / "dequantized", change))
    made = export(folder, tmp_path / "p", precision=kind, block_size=block, accuracy_level=0)
    messages, images = CHATS["two apart"]
    assert_parity(Model(made, threads=1), reference, messages, images, new_tokens=1)


def test_verify_agrees(package: Path, small_mllama: Path):
    found = verify(package, small_mllama, threads=1)
    assert found.prompt_equal
    assert found.divergence is None
    assert found.stages[0].difference == 0
    assert all(stage.difference < 1e-4 < stage.scale for stage in found.stages[1:])
