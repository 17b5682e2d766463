"""Qwen2-VL against transformers in float32: pictures, turns, layouts of the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from support.parity import assert_parity, greedy_steps
from support.pictures import checker, gradient, picture
from support.tiny.qwen2_vl import Layout, make_qwen2_vl
from support.tiny.qwen2_vl_text import PINNED_IDS, QUESTION, SIZE
from vlrt.verify import verify
from vlrt.verify.reference import Reference, load_reference
from vlrt_export.exporter import export
from vlrt_runtime.model import Model

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
    "two pictures": (
        [user(IMAGE, IMAGE, "What changed?")],
        [picture(150, 100), gradient(60, 200)],
    ),
    "a picture in the middle": ([user("Look: ", IMAGE, " and tell.")], [checker(90, 90)]),
    "text only": ([user("Describe nothing.")], []),
    "second turn": (
        [user(IMAGE, "What is this?"), assistant("A pattern."), user("Which colours?")],
        [picture(150, 100)],
    ),
    "a picture in the second turn": (
        [user(IMAGE, "And this?"), assistant("A."), user("Now ", IMAGE)],
        [picture(60, 60), checker(120, 80)],
    ),
    "own system line": (
        [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, user(IMAGE, "?")],
        [gradient(33, 77)],
    ),
}


@pytest.fixture(scope="module")
def package(small_qwen2_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small_qwen2_vl, tmp_path_factory.mktemp("parity") / "fp32", precision="fp32")


@pytest.fixture(scope="module")
def model(package: Path) -> Model:
    return Model(package, threads=1)


@pytest.fixture(scope="module")
def reference(small_qwen2_vl: Path) -> Reference:
    return load_reference(small_qwen2_vl, "qwen2_vl").double()


@pytest.mark.parametrize("chat", CHATS)
def test_every_stage_and_32_tokens(model: Model, reference: Reference, chat: str):
    messages, images = CHATS[chat]
    assert_parity(model, reference, messages, images)


def test_the_published_ids(tiny_qwen2_vl: Path, tmp_path: Path):
    """The pinned prompt: 242 ids, 864 patches of 1176, and 32 equal tokens at real ids."""
    model = Model(export(tiny_qwen2_vl, tmp_path / "package", precision="fp32"), threads=1)
    messages, images = [user(IMAGE, QUESTION)], [picture(*SIZE)]
    layout, pictures = model.prepare(QUESTION, images)
    assert layout.token_ids.tolist() == PINNED_IDS
    assert pictures[0].grid == (1, 24, 36)
    assert pictures[0].inputs["pixel_values"].shape == (1, 864, 1176)
    assert pictures[0].tokens == 216
    # The next text position is 198 below the index: 216 tokens stand on a 12 x 18 grid.
    cos = layout.inputs(np.zeros((1, 1, 64), np.float32), 242)["cos"]
    assert np.allclose(cos[0, 0, 0], np.cos(242 - 198), atol=1e-6)
    assert_parity(model, load_reference(tiny_qwen2_vl, "qwen2_vl").double(), messages, images)


def test_prefill_and_steps_equal_one_full_pass(model: Model, reference: Reference):
    messages, images = CHATS["two pictures"]
    ids, rows = greedy_steps(model, messages, images, 12)
    inputs = reference.inputs(messages, images)
    full = reference.forward_logits(inputs, ids[:-1])[len(inputs.token_ids) - 1 :]
    assert np.abs(rows - full).max() < 2e-4  # sums over 12 cached steps, twice the usual


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("tie", [True, False])
def test_every_layout_of_the_checkpoint(tmp_path: Path, layout: Layout, tie: bool):
    folder = make_qwen2_vl(
        tmp_path / "checkpoint", layout=layout, tie=tie, vocabulary="small", shards=1 + tie
    )
    model = Model(export(folder, tmp_path / "package", precision="fp32"), threads=1)
    messages, images = CHATS["one picture"]
    assert_parity(
        model, load_reference(folder, "qwen2_vl").double(), messages, images, new_tokens=8
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_checkpoints(tmp_path: Path, dtype: Any):
    """At fp32 nothing is lost: the reference widens the same stored values."""
    folder = make_qwen2_vl(tmp_path / "checkpoint", dtype=dtype, vocabulary="small")
    model = Model(export(folder, tmp_path / "package", precision="fp32"), threads=1)
    messages, images = CHATS["one picture"]
    assert_parity(
        model, load_reference(folder, "qwen2_vl").double(), messages, images, new_tokens=8
    )


def test_repetition_penalty_is_the_references(tmp_path: Path):
    folder = make_qwen2_vl(tmp_path / "checkpoint", vocabulary="small")
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 1.7}))
    model = Model(export(folder, tmp_path / "package", precision="fp32"), threads=1)
    messages, images = CHATS["one picture"]
    reference = load_reference(folder, "qwen2_vl").double()
    expected = reference.run(reference.inputs(messages, images), 24)
    answer = model.generate(messages, images=images, max_new_tokens=24)
    assert answer.token_ids == expected.token_ids
    assert len(set(answer.token_ids)) > 20


def test_verify_agrees_and_is_kept(
    package: Path, small_qwen2_vl: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
):
    # float32, which it loads, differs from the truth by as much as is allowed here.
    monkeypatch.setattr("vlrt.verify.load_reference", lambda *_: reference)
    found = verify(package, small_qwen2_vl, threads=1, write=True)
    assert found.prompt_equal
    assert found.divergence is None
    assert found.agreed_tokens == found.compared_tokens > 0
    names = [stage.name for stage in found.stages]
    expected = ["pixel_values", "vision_encoder", "projector", "inputs_embeds", "decoder"]
    assert names == expected
    assert found.stages[0].difference == 0
    assert all(stage.difference < 1e-4 < stage.scale for stage in found.stages[1:])
    kept = Model(package).manifest.verification
    assert kept == json.loads(json.dumps(found.as_dict()))


def test_verify_tells_another_checkpoint(package: Path, tmp_path: Path):
    other = make_qwen2_vl(tmp_path / "other", vocabulary="small", seed=3)
    found = verify(package, other, threads=1)
    assert all(stage.difference > 0.1 for stage in found.stages[1:])
    assert found.divergence is not None
    assert found.divergence.token_id != found.divergence.expected_id
    assert found.agreed_tokens == found.divergence.index < found.compared_tokens
