"""The tiny checkpoint is what transformers takes for a published one, and a fair judge of parity.

Fair: its answers vary, follow the picture, and are decided by far more than rounding; and every one
of its tensors shows in the logits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from support.pictures import picture
from support.tiny.qwen2_vl import Layout, make_qwen2_vl
from support.tiny.qwen2_vl_text import PINNED_IDS, QUESTION, SIZE
from vlrt.verify.reference import Reference, ReferenceInputs, ReferenceRun, load_reference
from vlrt_runtime.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    InputError,
    MissingDependencyError,
)

torch = pytest.importorskip("torch", reason="the reference is transformers on torch")
transformers = pytest.importorskip("transformers", reason="the reference is transformers")

NEW_TOKENS = 24


def ask(question: str = QUESTION, *, pictures: int = 1) -> list[dict[str, Any]]:
    parts = [{"type": "image"}] * pictures
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference(tiny_qwen2_vl: Path) -> Reference:
    return load_reference(tiny_qwen2_vl, "qwen2_vl")


@pytest.fixture(scope="module")
def small(small_qwen2_vl: Path) -> Reference:
    return load_reference(small_qwen2_vl, "qwen2_vl")


@pytest.fixture(scope="module")
def pinned(reference: Reference) -> ReferenceInputs:
    return reference.inputs(ask(), [picture(*SIZE)])


@pytest.fixture(scope="module")
def run(reference: Reference, pinned: ReferenceInputs) -> ReferenceRun:
    return reference.run(pinned, NEW_TOKENS)


def test_the_pinned_prompt_has_its_published_ids(pinned: ReferenceInputs):
    assert pinned.token_ids == PINNED_IDS
    assert len(PINNED_IDS) == 242
    assert PINNED_IDS.count(151655) == 216
    assert pinned.grids == [(1, 24, 36)]
    assert pinned.pixel_values[0].shape == (864, 1176)
    assert pinned.pixel_values[0].dtype == np.float32


def test_stages_have_the_shapes_that_the_run_promises(run: ReferenceRun, pinned: ReferenceInputs):
    assert [features.shape for features in run.vision_features] == [(864, 48)]
    assert [embeds.shape for embeds in run.image_embeds] == [(216, 64)]
    assert run.inputs_embeds.shape == (1, 242, 64)
    assert run.logits.shape == (242, 151936)
    places = np.flatnonzero(np.array(pinned.token_ids) == 151655)
    np.testing.assert_array_equal(run.inputs_embeds[0, places], run.image_embeds[0])


def test_the_answer_is_varied_and_no_near_tie(run: ReferenceRun):
    assert len(run.token_ids) == NEW_TOKENS
    assert run.finish_reason == "length"
    assert len(set(run.token_ids)) >= 12
    assert run.margins.shape == (NEW_TOKENS,)
    assert run.margins.min() > 0.05


def test_the_answer_has_text(run: ReferenceRun, tiny_qwen2_vl: Path):
    vocabulary = json.loads((tiny_qwen2_vl / "tokenizer.json").read_text(encoding="utf-8"))
    assert set(run.token_ids) <= set(vocabulary["model"]["vocab"].values())


def test_the_picture_matters(reference: Reference, run: ReferenceRun):
    turned = reference.inputs(ask(), [picture(*SIZE).rotate(180)])
    assert reference.run(turned, 8).token_ids != run.token_ids[:8]


def test_one_full_pass_agrees_with_the_cache(
    reference: Reference, run: ReferenceRun, pinned: ReferenceInputs
):
    logits = reference.forward_logits(pinned, run.token_ids[:-1])
    assert np.abs(logits[len(PINNED_IDS) - 1 :] - run.step_logits).max() < 2e-4
    assert np.abs(logits[: len(PINNED_IDS)] - run.logits).max() < 2e-4


@pytest.mark.parametrize("tie", [True, False])
def test_layouts_are_the_same_model(tmp_path: Path, tie: bool):
    """`load_reference` refuses missing and unexpected tensors, so a load is a clean load."""
    logits = {}
    for layout in get_args(Layout):
        folder = make_qwen2_vl(
            tmp_path / layout,
            layout=layout,
            vocabulary="small",
            tie=tie,
            shards=1 if layout == "transformers5" else 2,
        )
        model = load_reference(folder, "qwen2_vl")
        logits[layout] = model.forward_logits(model.inputs(ask(), [picture(90, 60)]))
    np.testing.assert_array_equal(logits["transformers5"], logits["published"])
    np.testing.assert_array_equal(logits["state_dict"], logits["published"])


def test_the_transformers5_config_is_what_transformers_saves(tmp_path: Path):
    published = make_qwen2_vl(tmp_path / "published", vocabulary="small")
    ours = make_qwen2_vl(tmp_path / "ours", vocabulary="small", layout="transformers5")
    model = transformers.Qwen2VLForConditionalGeneration.from_pretrained(
        published, dtype=torch.float32
    )
    model.save_pretrained(tmp_path / "theirs")
    saved, made = (
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for folder in (tmp_path / "theirs", ours)
    )
    saved.pop("transformers_version")
    made.pop("transformers_version")
    assert made == saved


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_are_run_in_float32(tmp_path: Path, dtype: Any):
    folder = make_qwen2_vl(tmp_path, dtype=dtype, vocabulary="small")
    model = load_reference(folder, "qwen2_vl")
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.float32}


def test_every_tensor_shows_in_the_logits(small: Reference):
    """A dropped bias or a norm left at one has to be a test that fails, not one that passes."""
    inputs = small.inputs(ask(), [picture(90, 60)])
    right = small.forward_logits(inputs)
    unseen = []
    with torch.no_grad():
        for name, parameter in small.model.named_parameters():
            kept = parameter.clone()
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            assert not (kept == float(is_norm)).any(), name
            parameter.fill_(float(is_norm))
            if np.abs(small.forward_logits(inputs) - right).max() < 0.01:
                unseen.append(name)
            parameter.copy_(kept)
    assert unseen == []


def test_two_pictures_are_kept_apart(small: Reference):
    pictures = [picture(90, 60), picture(120, 200)]
    both = small.run(small.inputs(ask(pictures=2), pictures), 1)
    for place, image in enumerate(pictures):
        alone = small.run(small.inputs(ask(), [image]), 1)
        np.testing.assert_allclose(both.vision_features[place], alone.vision_features[0], atol=1e-5)
        np.testing.assert_allclose(both.image_embeds[place], alone.image_embeds[0], atol=1e-5)


def test_a_chat_needs_no_picture(small: Reference):
    run = small.run(small.inputs(ask("Describe", pictures=0)), 2)
    assert run.vision_features == run.image_embeds == []
    assert len(run.token_ids) == 2


def test_a_stop_id_ends_the_answer_and_is_left_out(small: Reference):
    inputs = small.inputs(ask(), [picture(90, 60)])
    free = small.run(inputs, 6)
    kept = small.model.generation_config.eos_token_id
    small.model.generation_config.eos_token_id = [free.token_ids[3]]
    try:
        stopped = small.run(inputs, 6)
    finally:
        small.model.generation_config.eos_token_id = kept
    end = free.token_ids.index(free.token_ids[3])
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[:end]
    assert len(stopped.margins) == end + 1


def test_the_repetition_penalty_of_the_checkpoint_counts(tmp_path: Path):
    folder = make_qwen2_vl(tmp_path, vocabulary="small")
    config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    config["repetition_penalty"] = 1.5
    (folder / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    model = load_reference(folder, "qwen2_vl")
    inputs = model.inputs(ask(), [picture(90, 60)])
    run = model.run(inputs, 1)
    expected = run.logits[-1].copy()
    said = list(set(inputs.token_ids))
    expected[said] = np.where(expected[said] > 0, expected[said] / 1.5, expected[said] * 1.5)
    np.testing.assert_allclose(run.step_logits[0], expected, atol=1e-4)


def test_a_lower_limit_makes_fewer_patches(small: Reference):
    limit = {"max_pixels": 28 * 28 * 16}
    inputs = small.inputs(ask(), [picture(*SIZE)], image_options=limit)
    frames, rows, columns = inputs.grids[0]
    assert frames * rows * columns // 4 <= 16
    with pytest.raises(InputError, match="unknown image options max_pixel"):
        small.inputs(ask(), [picture(*SIZE)], image_options={"max_pixel": 1})


def test_pictures_and_places_are_counted(small: Reference):
    with pytest.raises(InputError, match=r"has 1 places for pictures, and there are 0 pictures"):
        small.inputs(ask())


def test_a_checkpoint_with_a_tensor_missing_is_refused(tmp_path: Path):
    folder = make_qwen2_vl(tmp_path, vocabulary="small", shards=1, tie=False)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = 4
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"missing keys: model\.language_model\.layers\.3"):
        load_reference(folder, "qwen2_vl")


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_a_missing_library_is_named_with_its_remedy(
    small_qwen2_vl: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=rf"needs {name}, .* 'vlrt\[test\]'"):
        load_reference(small_qwen2_vl, "qwen2_vl")


def test_unknown_families_and_empty_folders_are_named(small_qwen2_vl: Path, tmp_path: Path):
    with pytest.raises(InputError, match="no reference for family 'qwen3': expected kosmos2"):
        load_reference(small_qwen2_vl, "qwen3")
    with pytest.raises(CheckpointNotFoundError, match=r"has no config\.json"):
        load_reference(tmp_path, "qwen2_vl")
