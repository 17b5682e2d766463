"""Kosmos-2 around its graphs: prompts, pictures, captions and their boxes, as transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.pictures import picture
from support.tiny.kosmos2 import make_kosmos2
from support.tiny.kosmos2_text import CAPTION, PINNED_ANSWER_IDS, PINNED_PROMPTS, PROMPT
from vlrt.verify.kosmos2 import Kosmos2Reference
from vlrt.verify.reference import load_reference
from vlrt_export.exporter import export
from vlrt_runtime.errors import CheckpointError, ImageError, InputError
from vlrt_runtime.image import load_image
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


# ------------------------------------------------------------------ prompts and pictures


@pytest.mark.parametrize("text", PINNED_PROMPTS)
def test_the_published_ids_of_texts(model: Model, text: str):
    layout, _ = model.prepare(text)
    assert [*layout.token_ids.tolist(), 2] == PINNED_PROMPTS[text]


def test_the_published_ids_of_a_picture_and_a_text(model: Model):
    layout, pictures = model.prepare(PROMPT, [picture(*SIZE)])
    prompt = [0, 64003, *range(4, 68), 64004, 64012, 712, 1648, 9]
    assert layout.token_ids.tolist() == prompt
    assert np.flatnonzero(layout.slots).tolist() == list(range(2, 66))
    assert pictures[0].inputs["pixel_values"].shape == (1, 3, 224, 224)
    whole, _ = model.prepare(CAPTION, [picture(*SIZE)])
    assert len([*whole.token_ids, 2]) == 91
    assert [*whole.token_ids.tolist(), 4] == [*prompt, *PINNED_ANSWER_IDS]


@pytest.mark.parametrize(
    "text",
    [
        *PINNED_PROMPTS,
        CAPTION,
        "  An image of \n",
        "",
        "Two <phrase>puppies</phrase>\nand<unk> a <mask> é 中 <s> ",
    ],
)
@pytest.mark.parametrize("pictures", [0, 1])
def test_ids_are_the_processors(
    model: Model, reference: Kosmos2Reference, text: str, pictures: int
):
    images = [picture(40, 30)] * pictures
    layout, _ = model.prepare(text, images)
    made = reference.processor(text=text, images=images or None, return_tensors="np")
    assert layout.token_ids.tolist() == made["input_ids"][0].tolist()
    if images:
        assert layout.slots.tolist() == made["image_embeds_position_mask"][0].tolist()


def images_of_every_kind() -> Iterator[Image.Image]:
    draws = np.random.default_rng(5)
    sizes = [*draws.integers(1, 600, (200, 2)).tolist(), (224, 224), (1, 1), (1, 900), (900, 1)]
    for height, width in sizes:
        yield Image.fromarray(draws.integers(0, 256, (height, width, 3), dtype=np.uint8))
    rgba = Image.fromarray(draws.integers(0, 256, (90, 130, 4), dtype=np.uint8))
    for mode in ("1", "L", "P", "CMYK", "YCbCr", "HSV"):
        yield rgba.convert("RGB").convert(mode)
    yield from (rgba, rgba.convert("LA"))


def test_pixels_are_equal_to_the_bit(model: Model, reference: Kosmos2Reference):
    count = 0
    for image in images_of_every_kind():
        expected = reference.processor.image_processor([image], return_tensors="np")
        got = model.family.picture(load_image(image)).inputs["pixel_values"]
        assert np.array_equal(got, expected["pixel_values"]), (image.size, image.mode)
        count += 1
    assert count == 212


def test_errors(model: Model, package: Path):
    images = [picture(30, 30)] * 2
    with pytest.raises(InputError, match="2 given, Kosmos-2 takes 1 in a prompt"):
        model.generate(PROMPT, images=images)
    with pytest.raises(InputError, match="1 picture placeholders, 0 pictures given"):
        model.generate("<image>An image of")
    with pytest.raises(InputError, match="2 picture placeholders, 1 pictures given"):
        model.generate("<image>An image of", images=images[:1])
    with pytest.raises(InputError, match="Kosmos-2 knows no chat"):
        model.generate([*user("Hi", 0), {"role": "assistant", "content": "Ho"}])
    with pytest.raises(InputError, match="max_pixels: Kosmos-2 sees every picture at one size"):
        Model(package, max_pixels=1000)
    with pytest.raises(ImageError, match="no pixels"):
        model.family.picture(Image.new("RGB", (5, 0)))


def test_a_checkpoint_without_tags_is_refused(tmp_path: Path):
    folder = make_kosmos2(tmp_path / "checkpoint")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] = content["added_tokens"][:5]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"added_tokens lacks <image>, </image>; save it"):
        export(folder, tmp_path / "package")


# ------------------------------------------------------------------ captions

SNOWMAN = ("a snowman", (12, 21), [(0.390625, 0.046875, 0.984375, 0.828125)])
FIRE = ("a fire", (41, 47), [(0.171875, 0.015625, 0.484375, 0.890625)])
TEXT = "An image of a snowman warming himself by a fire."


def saying(model: Model, monkeypatch: pytest.MonkeyPatch, token_ids: Sequence[int]) -> None:
    left = iter([*token_ids, 2])
    monkeypatch.setattr(model, "choose", lambda *_: next(left))


def test_the_published_caption(model: Model, monkeypatch: pytest.MonkeyPatch):
    saying(model, monkeypatch, PINNED_ANSWER_IDS)
    answer = model.generate(PROMPT, images=[picture(*SIZE)])
    assert answer.token_ids == PINNED_ANSWER_IDS
    assert answer.finish_reason == "stop"
    assert answer.text == TEXT
    found = [(e.name, e.span, list(e.boxes)) for e in answer.entities]
    assert found == [SNOWMAN, FIRE]
    assert [answer.text[slice(*e.span)] for e in answer.entities] == ["a snowman", "a fire"]
    assert [e.image for e in answer.entities] == [0, 0]
    assert answer.entities[0].pixel_boxes == ((195, 16, 492, 278),)
    assert json.loads(json.dumps(answer.as_dict()))["entities"][1] == {
        "name": "a fire",
        "span": [41, 47],
        "boxes": [[0.171875, 0.015625, 0.484375, 0.890625]],
        "image": 0,
        "pixel_boxes": [[86, 5, 242, 299]],
    }


def test_a_stream_is_the_caption_in_pieces(model: Model, monkeypatch: pytest.MonkeyPatch):
    saying(model, monkeypatch, PINNED_ANSWER_IDS)
    stream = model.stream(PROMPT, images=[picture(*SIZE)])
    pieces = list(stream)
    assert "".join(pieces) == stream.result().text == TEXT
    assert len(pieces) > 4


def test_text_only_boxes_have_no_picture(model: Model, monkeypatch: pytest.MonkeyPatch):
    saying(model, monkeypatch, PINNED_ANSWER_IDS)
    (snowman, _) = model.generate(PROMPT).entities
    assert snowman.image is None
    assert snowman.pixel_boxes == ()


@pytest.mark.parametrize("clean_up", [True, False])
def test_captions_are_the_processors(tmp_path: Path, clean_up: bool):
    """Any mix of tags, words and signs: `post_process_generation` of the decoded ids."""
    folder = make_kosmos2(tmp_path / "checkpoint", clean_up=clean_up)
    model = Model(export(folder, tmp_path / "package"), threads=1)
    processor = load_reference(folder, "kosmos2").processor  # pyright: ignore
    draws = np.random.default_rng(1)
    parts = ["<phrase>", "</phrase>", "<object>", "</object>", "</delimiter_of_multi_objects/>"]
    cells = [f"<patch_index_{cell:04d}>" for cell in (0, 31, 32, 44, 45, 863, 1023)]
    pair = "<patch_index_0044><patch_index_0863>"
    whole = [
        f"<object>{pair}</object>",
        f"<phrase> a fire</phrase><object>{pair}</object>",
        f"<phrase>the </phrase><object>{pair}</delimiter_of_multi_objects/>{pair}</object>",
        "<object><patch_index_0005><patch_index_0005></object>",
    ]
    words = [" a", " snowman", ".", ",", " ", "s", " '", "' ", "<", ">", " n't", " !", " is"]
    prompt = [0, 64003, *range(4, 68), 64004]
    entities = 0
    for _ in range(250):
        text = "".join(
            draws.choice([*parts, *cells, *whole * 3, *words * 2], draws.integers(1, 14))
        )
        ids = model.codec.encode(text, bare=True)
        decoded = processor.decode([*prompt, *ids], skip_special_tokens=True)
        expected, found = processor.post_process_generation(decoded)
        got, mine = model.family.read(model.codec, prompt, ids)
        assert got == expected
        assert [(e.name, e.span, list(e.boxes)) for e in mine] == found
        entities += len(found)
        pieces = model.family.stream(model.codec, prompt, (i for i in ids), [])
        assert "".join(pieces) == expected
    assert entities > 120
