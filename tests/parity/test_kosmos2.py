"""Kosmos-2 against transformers in float32: every stage, layouts of the checkpoint, positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Kosmos2ForConditionalGeneration
from transformers.models.kosmos2.modeling_kosmos2 import Kosmos2TextSinusoidalPositionalEmbedding

from support.parity import assert_parity, greedy_steps
from support.pictures import checker, gradient, picture
from support.quantized import dequantized, rewrite
from support.tiny.kosmos2 import make_kosmos2
from support.tiny.kosmos2_text import PROMPT
from vlrt.verify import verify
from vlrt.verify.kosmos2 import Kosmos2Reference
from vlrt.verify.reference import load_reference
from vlrt_export.exporter import export
from vlrt_runtime.errors import ContextLengthError
from vlrt_runtime.families.kosmos2 import sinusoids
from vlrt_runtime.model import Model

SIZE = (500, 336)


def user(text: str, pictures: int = 1) -> list[dict[str, Any]]:
    parts = [{"type": "image"}] * pictures
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module")
def package(tiny_kosmos2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny_kosmos2, tmp_path_factory.mktemp("parity") / "fp32", precision="fp32")


@pytest.fixture(scope="module")
def model(package: Path) -> Model:
    return Model(package, threads=1)


@pytest.fixture(scope="module")
def reference(tiny_kosmos2: Path) -> Kosmos2Reference:
    loaded = load_reference(tiny_kosmos2, "kosmos2")
    assert isinstance(loaded, Kosmos2Reference)
    return loaded


# ------------------------------------------------------------------ the whole way


PROMPTS = {
    "grounding": (PROMPT, [picture(*SIZE)]),
    "a caption": ("An image of", [gradient(60, 200)]),
    "a picture alone": ("", [checker(90, 90)]),
    "boxes asked about": (
        "<grounding><phrase> a fire</phrase><object><patch_index_0005><patch_index_0911></object>"
        " is",
        [checker(120, 80)],
    ),
    "padding in the prompt": ("Two<pad> puppies<pad><pad> sit", [picture(150, 100)]),
    "text only": ("the snowman is by a fire", []),
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_stage_and_32_tokens(model: Model, reference: Kosmos2Reference, prompt: str):
    text, images = PROMPTS[prompt]
    run = assert_parity(model, reference, user(text, len(images)), images)
    # A string, raw or not, is the same prompt: there is no chat.
    for raw in (False, True):
        answer = model.generate(text, images=images, max_new_tokens=8, raw=raw)
        assert answer.token_ids == run.token_ids[:8]


def test_the_answer_is_varied_and_sees_the_picture(model: Model):
    ids = model.generate(PROMPT, images=[picture(*SIZE)], max_new_tokens=32).token_ids
    turned = model.generate(PROMPT, images=[picture(*SIZE).rotate(180)], max_new_tokens=32)
    assert len(set(ids)) >= 12
    assert turned.token_ids != ids


def test_prefill_and_steps_equal_one_full_pass(model: Model, reference: Kosmos2Reference):
    images = [picture(*SIZE)]
    ids, rows = greedy_steps(model, user(PROMPT), images, 12)
    inputs = reference.inputs(user(PROMPT), images)
    full = reference.forward_logits(inputs, ids[:-1])[len(inputs.token_ids) - 1 :]
    assert np.abs(rows - full).max() < 2e-4


@pytest.mark.parametrize("case", ["transformers5", "head", "bfloat16", "other sizes"])
def test_other_checkpoints(tmp_path: Path, case: str):
    options: dict[str, Any] = {
        "transformers5": {"layout": "transformers5", "shards": 1},
        "head": {"head": True},
        "bfloat16": {"dtype": "bfloat16"},
        "other sizes": {"scale_embedding": False, "layers": 1, "activation_function": "silu"},
    }[case]
    folder = make_kosmos2(tmp_path / "checkpoint", **options)
    model = Model(export(folder, tmp_path / "package", precision="fp32"), threads=1)
    assert_parity(
        model, load_reference(folder, "kosmos2"), user(PROMPT), [picture(*SIZE)], new_tokens=8
    )


def test_the_transformers5_config_is_what_transformers_saves(tmp_path: Path):
    published = make_kosmos2(tmp_path / "published")
    ours = make_kosmos2(tmp_path / "ours", layout="transformers5")
    Kosmos2ForConditionalGeneration.from_pretrained(published).save_pretrained(tmp_path / "theirs")
    saved, made = (
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for folder in (tmp_path / "theirs", ours)
    )
    for config in (saved, made):
        config.pop("transformers_version")
    assert made == saved


@pytest.mark.parametrize(("kind", "block"), [("int8", 128), ("int4", 32)])
def test_codes_stand_for_their_weights(tmp_path: Path, kind: str, block: int):
    """Untied, so that the head can be quantised and the table left as it is."""
    folder = make_kosmos2(tmp_path / "checkpoint", shards=1, tie=False)

    def change(name: str, rows: np.ndarray) -> np.ndarray:
        if name.endswith("latent_query"):  # learned rows, not multiplied by what comes in
            return rows
        bits = 4 if kind == "int4" and name.startswith("text_model.") else 8
        return dequantized(rows, bits, block)

    reference = load_reference(rewrite(folder, tmp_path / "dequantized", change), "kosmos2")
    made = export(folder, tmp_path / "p", precision=kind, block_size=block, accuracy_level=0)
    model = Model(made, threads=1)
    assert_parity(model, reference, user(PROMPT), [picture(*SIZE)], new_tokens=1)


def test_verify(package: Path, tiny_kosmos2: Path):
    found = verify(package, tiny_kosmos2, threads=1, max_new_tokens=4)
    assert found.prompt_equal
    assert found.divergence is None
    assert found.stages[0].difference == 0
    assert all(stage.difference < 1e-4 < stage.scale for stage in found.stages[1:])


# ------------------------------------------------------------------ positions


@pytest.mark.parametrize("width", [48, 2048])
def test_sinusoids_are_the_references(width: int):
    table = Kosmos2TextSinusoidalPositionalEmbedding(2048, width, padding_idx=1)
    got = sinusoids(np.arange(2050), width)
    assert got.dtype == np.float32
    # One unit in the last place of a frequency moves an angle of 2000 by 1e-4.
    assert np.abs(got - table.weights.numpy()).max() < 2e-4
    assert np.abs(got[:72] - table.weights.numpy()[:72]).max() < 5e-6
    assert not got[1].any()


def test_padding_has_no_position_and_only_counts_once_it_is_cached(
    model: Model, reference: Kosmos2Reference
):
    """As transformers: not counted within the prompt; after it, positions follow the cache."""
    text, images = PROMPTS["padding in the prompt"]
    layout, _ = model.prepare(text, images)
    zeros = np.zeros((1, len(layout.token_ids), 48), np.float32)
    rows = layout.inputs(zeros, 0)["inputs_embeds"][0]
    assert layout.token_ids[67:].tolist() == [1264, 1, 17772, 1, 1, 1357]
    expected = [69, 1, 70, 1, 1, 71]
    assert np.array_equal(rows[67:], sinusoids(np.array(expected), 48))
    following = len(layout.token_ids)
    both = layout.step(np.array([5, 1]), zeros[:, :2], following)["inputs_embeds"][0]
    assert np.array_equal(both[:1], sinusoids(np.array([75]), 48))
    assert not both[1].any()


def test_padding_in_the_answer(model: Model, reference: Kosmos2Reference):
    layout, pictures = model.prepare(PROMPT, [picture(*SIZE)])
    projected = [model.projector(model.encode(pictures[0]))]
    decoder = model.decoder()
    decoder.run(layout.inputs(model.splice(layout, projected), 0))
    got = []
    for token in (5, 1, 1, 9):
        row = model.embed(np.array([token]))[None]
        got.append(decoder.run(layout.step(np.array([token]), row, decoder.length))[-1].copy())
    inputs = reference.inputs(user(PROMPT), [picture(*SIZE)])
    cache = None
    expected = []
    arguments = reference.arguments(inputs, inputs.token_ids)
    with torch.no_grad():
        made = reference.model(**arguments, use_cache=True)
        for token in (5, 1, 1, 9):
            cache = made.past_key_values
            made = reference.model.text_model(
                input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True
            )
            expected.append(made.logits[0, -1].numpy())
    assert np.abs(np.stack(got) - np.stack(expected)).max() < 1e-4


def test_the_context_ends_at_2048(model: Model):
    with pytest.raises(ContextLengthError, match=r"2067 tokens, 64 of them pictures; .* is 2048"):
        model.prepare("the " * 2000, [picture(30, 30)])
    answer = model.generate("the " * 2044, max_new_tokens=8)
    assert (answer.prompt_tokens, answer.finish_reason) == (2045, "length")
    assert len(answer.token_ids) == 3
