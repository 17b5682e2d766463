"""A whole model: prompts with pictures in every form, counts, limits, devices."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlrt
from support.packages import with_generation
from support.pictures import checker, picture
from vlrt_runtime.errors import (
    ContextLengthError,
    DeviceError,
    ImageError,
    InputError,
    PackageNotFoundError,
)
from vlrt_runtime.model import Model

IMAGE = {"type": "image"}
PICTURE = picture(90, 60)
ASK = "What is this?"


@pytest.fixture(scope="module")
def model(small_package: Path) -> Model:
    return Model(small_package, threads=1)


@pytest.fixture
def changed(small_package: Path, tmp_path: Path) -> Callable[..., Model]:
    """Opens a copy of the package with other settings under `generation`."""
    return lambda **settings: Model(
        with_generation(small_package, tmp_path / "changed", **settings), threads=1
    )


def user(*parts: Any) -> dict[str, Any]:
    words = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": words}


# ------------------------------------------------------------------ prompts and pictures


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "array", "part"])
def test_a_picture_in_any_form_is_the_same_picture(model: Model, free, tmp_path: Path, kind: str):
    PICTURE.save(tmp_path / "p.png")
    data = BytesIO()
    PICTURE.save(data, "PNG")
    source = {
        "path": tmp_path / "p.png",
        "str": str(tmp_path / "p.png"),
        "bytes": data.getvalue(),
        "array": np.asarray(PICTURE),
    }.get(kind, PICTURE)
    if kind == "part":
        answer = model.generate([user({**IMAGE, "image": source}, ASK)], max_new_tokens=24)
    else:
        answer = model.generate(ASK, images=[source], max_new_tokens=24)
    assert (answer.text, answer.token_ids) == (free.text, free.token_ids)
    assert answer.image_tokens == 6


def test_an_answer_says_all_that_is_promised(free):
    assert len(free.token_ids) == 24
    assert free.finish_reason == "length"
    assert free.prompt_tokens > free.image_tokens == 6
    assert len(free.text) > 3
    assert free.entities == ()
    assert json.loads(json.dumps(free.as_dict()))["token_ids"] == free.token_ids


def test_pictures_count_and_so_does_their_order(model: Model):
    images = [PICTURE, checker(100, 140)]
    there = model.generate(ASK, images=images, max_new_tokens=8)
    back = model.generate(ASK, images=images[::-1], max_new_tokens=8)
    assert there.image_tokens == back.image_tokens == 6 + 20
    assert there.token_ids != back.token_ids


def test_several_turns_and_no_pictures(model: Model):
    turns = [user(ASK), {"role": "assistant", "content": "That."}, user("And ", IMAGE, "?")]
    answer = model.generate(turns, images=[PICTURE], max_new_tokens=4)
    assert answer.image_tokens == 6
    text = model.generate("Only words.", max_new_tokens=4)
    assert text.image_tokens == 0
    assert len(text.token_ids) == 4


def test_a_raw_prompt_is_the_rendered_one(model: Model, free):
    raw = model.chat_text([user(IMAGE, ASK)])
    answer = model.generate(raw, images=[PICTURE], max_new_tokens=24, raw=True)
    assert answer.token_ids == free.token_ids


@pytest.mark.parametrize(
    ("prompt", "images", "options", "said"),
    [
        ([user(IMAGE, IMAGE, "x")], 1, {}, "images: 1 given, for 2 "),
        ([user("x")], 3, {}, "images: 3 given, for 0 "),
        ("a <|image_pad|>", 0, {}, "1 picture placeholders, 0 pictures given"),
        ("<|image_pad|>", 2, {"raw": True}, "1 picture placeholders, 2 pictures given"),
        ("x", 1, {"raw": True}, "0 picture placeholders, 1 pictures given"),
        ("", 0, {"raw": True}, "prompt: it is empty"),
        ([user("x")], 0, {"raw": True}, "a raw prompt is text, not messages"),
        ("x\udcff", 0, {}, "it is no valid text"),
        (None, 0, {}, "expected text or a list of messages"),
        ("x", 0, {"max_new_tokens": 0}, "max_new_tokens 0: expected at least 1"),
    ],
)
def test_prompts_that_cannot_be_are_refused(model: Model, prompt, images, options, said):
    with pytest.raises(InputError, match=said):
        model.generate(prompt, images=[PICTURE] * images, **options)


@pytest.mark.parametrize("one", ["a.png", b"data", PICTURE, np.asarray(PICTURE), Path("a.png")])
def test_one_picture_without_brackets_is_told(model: Model, one):
    with pytest.raises(InputError, match="expected a list of pictures, got one; put it in brack"):
        model.stream(ASK, images=one)


def test_pictures_may_come_from_anything_that_goes_round(model: Model, free):
    answer = model.generate(ASK, images=(one for one in [PICTURE]), max_new_tokens=24)
    assert answer.token_ids == free.token_ids


def test_a_wrong_picture_is_named(model: Model, tmp_path: Path):
    (tmp_path / "words.png").write_text("words")
    with pytest.raises(ImageError, match=r"words\.png"):
        model.generate(ASK, images=[PICTURE, tmp_path / "words.png"])


# ------------------------------------------------------------------ limits


def test_a_prompt_longer_than_the_context_is_refused(changed):
    model = changed(max_context=30)
    said = r"prompt: \d+ tokens, 6 of them pictures; the model's context is 30; shorten"
    with pytest.raises(ContextLengthError, match=said):
        model.generate(ASK * 3, images=[PICTURE])


@pytest.mark.parametrize("room", [1, 5])
def test_an_answer_stops_at_the_context(changed, free, room: int):
    model = changed(max_context=free.prompt_tokens + room)
    answer = model.generate(ASK, images=[PICTURE], max_new_tokens=24)
    assert answer.token_ids == free.token_ids[:room]
    assert answer.finish_reason == "length"


def test_a_stop_id_ends_the_answer_and_is_left_out(changed, free):
    stop = free.token_ids[5]
    answer = changed(stop_ids=[500, stop]).generate(ASK, images=[PICTURE], max_new_tokens=24)
    assert answer.token_ids == free.token_ids[: free.token_ids.index(stop)]
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    ("limits", "tokens"),
    [({"max_pixels": 3136}, 4), ({"min_pixels": 40 * 784}, 40), ({"max_pixels": 4000}, 2), ({}, 6)],
)
def test_pixel_limits_are_options(small_package: Path, limits, tokens: int):
    model = vlrt.load(small_package, threads=1, **limits)
    answer = model.generate(ASK, images=[PICTURE], max_new_tokens=1)
    expected = range(tokens, tokens + 10) if "min_pixels" in limits else range(1, tokens + 1)
    assert answer.image_tokens in expected


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"threads": 0}, InputError, "threads 0: expected at least 1"),
        ({"device": "tpu"}, InputError, "device 'tpu': .* takes one of auto, cpu, cuda"),
        ({"min_pixels": 0}, InputError, "pixel limits 0 to"),
        ({"max_pixels": 100}, InputError, "pixel limits 3136 to 100"),
    ],
)
def test_options_that_cannot_be_are_refused(small_package: Path, options, error, said):
    with pytest.raises(error, match=said):
        vlrt.load(small_package, **options)


def test_a_device_that_is_not_here_says_what_to_install(small_package: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it is here")
    with pytest.raises(
        DeviceError, match=r"no CUDAExecutionProvider here.*install onnxruntime-gpu"
    ):
        vlrt.load(small_package, device="cuda")
    with pytest.raises(PackageNotFoundError):
        vlrt.load(small_package / "nowhere")


def test_no_more_threads_than_cores(small_package: Path):
    assert vlrt.load(small_package, threads=5000).threads < 5000
