"""Boxes in answers: from Qwen2-VL's tags to entities, and from entities onto the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.pictures import picture
from support.tiny.qwen2_vl_text import Tokens
from vlrt_export.exporter import export
from vlrt_runtime.annotate import annotate
from vlrt_runtime.entities import Entity, placed
from vlrt_runtime.families.qwen2_vl_boxes import read_boxes
from vlrt_runtime.model import Model

SPECIAL = list(Tokens("small").specials)
REF, END_REF, BOX, END_BOX = SPECIAL[3:7]
QUAD, END_QUAD = SPECIAL[7:9]


def text_of(raw: str) -> str:
    for token in SPECIAL:
        raw = raw.replace(token, "")
    return raw


def read(raw: str) -> list[tuple[str, tuple[int, int], list[tuple[float, ...]]]]:
    found = read_boxes(raw, SPECIAL)
    text = text_of(raw)
    for entity in found:
        assert text[slice(*entity.span)] == entity.name
        assert all(0 <= value <= 1 for box in entity.boxes for value in box)
    return [(entity.name, entity.span, list(entity.boxes)) for entity in found]


# ------------------------------------------------------------------ Qwen2-VL's tags


def test_a_box_with_a_name():
    raw = f"See {REF}the dog{END_REF}{BOX}(123,235),(324,546){END_BOX}."
    assert read(raw) == [("the dog", (4, 11), [(0.123, 0.235, 0.324, 0.546)])]
    assert text_of(raw) == "See the dog(123,235),(324,546)."


def test_several_boxes_of_a_name_and_several_names():
    raw = (
        f"{REF} cats {END_REF}{BOX}(0,0),(999,999){END_BOX}, {BOX}(1,2),(3,4),(5,6),(7,8){END_BOX}"
        f" and {REF}猫{END_REF}{BOX} ( 10 , 20 ) , ( 30.5 , 40 ) {END_BOX}<|im_end|>"
    )
    boxes = [(0.0, 0.0, 0.999, 0.999), (0.001, 0.002, 0.003, 0.004), (0.005, 0.006, 0.007, 0.008)]
    text = text_of(raw)
    place = text.index("猫")
    assert read(raw) == [
        ("cats", (1, 5), boxes),
        ("猫", (place, place + 1), [(0.01, 0.02, 0.0305, 0.04)]),
    ]


def test_a_box_without_a_name():
    raw = f"ab{BOX}(1,2),(3,4){END_BOX}cd{BOX}(5,6),(7,8){END_BOX}"
    assert [(name, span) for name, span, _ in read(raw)] == [("", (2, 2)), ("", (15, 15))]


def test_corners_in_the_wrong_order_and_beyond_the_picture():
    assert read(f"{BOX}(900,800),(100,2000){END_BOX}")[0][2] == [(0.1, 0.8, 0.9, 1.0)]


def test_quads_keep_their_corners():
    raw = f"{REF}sign{END_REF}{QUAD}(100,200),(300,100),(400,300),(200,400){END_QUAD}"
    (entity,) = read_boxes(raw, SPECIAL)
    assert entity.boxes == ((0.1, 0.1, 0.4, 0.4),)
    assert entity.quads == (((0.1, 0.2), (0.3, 0.1), (0.4, 0.3), (0.2, 0.4)),)
    assert json.loads(json.dumps(entity.as_dict()))["quads"][0][1] == [0.3, 0.1]


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "no tags (1,2),(3,4)",
        f"{REF}dog{END_REF}",
        f"{REF}dog{END_REF}{BOX}{END_BOX}",
        f"{REF}dog{END_REF}{BOX}(1,2){END_BOX}",
        f"{REF}dog{END_REF}{BOX}(1,2),(3,{END_BOX}",
        f"{REF}dog{END_REF}{BOX}(a,b),(c,d){END_BOX}",
        f"{REF}dog{END_REF}{BOX}(-1,2),(3,4",
        f"{BOX}(1,2),(3,4){END_QUAD}",
        f"{QUAD}(1,2),(3,4){END_QUAD}",
        f"{END_BOX}(1,2),(3,4){BOX}",
        f"{BOX}(1,2),{REF}(3,4){END_BOX}",
        f"{BOX}({'9' * 5000},2),(3,4){END_BOX}",
    ],
)
def test_what_is_malformed_is_left_out(raw: str):
    assert read(raw) == []


def test_any_mix_of_tags_is_read_without_an_error():
    draws = np.random.default_rng(0)
    parts = [*SPECIAL, "(1,2),(3,4)", "(12,", "34)", ",", " dog ", "é", "<|", "|>", "<|box_"]
    found = 0
    for _ in range(2000):
        found += len(read("".join(draws.choice(parts, draws.integers(0, 30)))))
    assert found > 5


@pytest.fixture(scope="module")
def model(small_qwen2_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(export(small_qwen2_vl, tmp_path_factory.mktemp("grounding") / "p"), threads=1)


def test_an_answer_carries_its_entities(model: Model, monkeypatch: pytest.MonkeyPatch):
    raw = f"A {REF}dog{END_REF}{BOX}(100,200),(300,1000){END_BOX}!"
    ids = model.codec.encode(raw, bare=True)
    stop = model.manifest.generation.stop_ids[0]

    def answer(images: list[Image.Image]):
        left = iter([*ids, stop])
        monkeypatch.setattr(model, "choose", lambda *_: next(left))
        return model.generate("Find the dog.", images=images)

    one = answer([picture(150, 100)])
    assert one.token_ids == ids
    assert one.text == "A dog(100,200),(300,1000)!"
    dog = Entity("dog", (2, 5), ((0.1, 0.2, 0.3, 1.0),), (), 0, ((15, 20, 45, 100),))
    assert one.entities == (dog,)
    assert json.loads(json.dumps(one.as_dict()))["entities"] == [
        {
            "name": "dog",
            "span": [2, 5],
            "boxes": [[0.1, 0.2, 0.3, 1.0]],
            "image": 0,
            "pixel_boxes": [[15, 20, 45, 100]],
        }
    ]
    two = answer([picture(150, 100), picture(40, 40)])  # the tags do not say which is meant
    assert [(e.image, e.pixel_boxes) for e in two.entities] == [(None, ())]


def test_an_answer_without_boxes_has_none(model: Model):
    assert model.generate("Hi", images=[picture(40, 40)], max_new_tokens=2).entities == ()


def test_pixels_are_of_the_picture_given():
    entity = Entity("", (0, 0), ((0.0, 0.5, 1.0, 1.0),))
    (found,) = placed([entity], [(640, 480)])
    assert (found.image, found.pixel_boxes) == (0, ((0, 240, 640, 480),))


# ------------------------------------------------------------------ drawing

GREY = (120, 120, 120)


def boxed(*boxes: tuple[float, float, float, float], name: str = "thing") -> Entity:
    return Entity(name, (0, len(name)), boxes)


def drawn(size: tuple[int, int], *entities: Entity) -> np.ndarray:
    return np.asarray(annotate(Image.new("RGB", size, GREY), entities))


def colours(pixels: np.ndarray, least: int) -> set[tuple[int, ...]]:
    """The colours that cover so many pixels: lines and labels, without ground and letters."""
    codes = pixels.reshape(-1, 3) @ np.array([1 << 16, 1 << 8, 1])
    found, counts = np.unique(codes, return_counts=True)
    kept = [(code >> 16, code >> 8 & 255, code & 255) for code in found[counts >= least].tolist()]
    return {colour for colour in kept if len(set(colour)) > 1}  # grey tones are the rest


def test_the_picture_itself_is_left_alone():
    image = Image.new("L", (300, 200), 9)
    made = annotate(image, [boxed((0.1, 0.5, 0.4, 0.9))])
    assert (made.mode, made.size) == ("RGB", (300, 200))
    assert image.getextrema() == (9, 9)
    assert np.array_equal(np.asarray(annotate(image, [])), np.full((200, 300, 3), 9))


def test_lines_run_where_the_box_is():
    pixels = drawn((400, 300), boxed((0.25, 0.4, 0.75, 0.8)))
    changed = (pixels != GREY).any(2)
    assert changed[120:241, 100].all()
    assert changed[120:241, 300].all()
    assert changed[240, 100:300].all()
    assert not changed[150:210, 130:270].any()  # inside
    assert not changed[250:].any()


def test_every_entity_has_its_own_colour():
    rows = [(0.02, 0.02 + i / 13, 0.98, 0.06 + i / 13) for i in range(12)]
    assert len(colours(drawn((900, 1300), *(boxed(row) for row in rows)), 900)) == 12
    assert len(colours(drawn((900, 1300), boxed(*rows)), 4000)) == 1


def test_labels_stand_above_their_box_and_make_room_for_each_other():
    one = drawn((400, 300), boxed((0.25, 0.4, 0.75, 0.8)))
    assert (one[:118] != GREY).any()
    two = drawn((400, 300), boxed((0.25, 0.4, 0.75, 0.8)), boxed((0.25, 0.4, 0.75, 0.8)))
    assert len(colours(two[100:150, 100:180], 100)) == 2


@pytest.mark.parametrize("name", ["", "猫", "a\tb\n c", "é" * 300, "x" * 5000, "\x00"])
@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (60, 40), (640, 480)])
def test_any_name_on_any_picture(size: tuple[int, int], name: str):
    wild = [(-1.0, -2.0, 3.0, 4.0), (0.5, 0.5, 0.5, 0.5), (0.9, 0.9, 0.1, 0.1)]
    quad = Entity(
        name, (0, 1), ((0.1, 0.1, 0.9, 0.9),), (((0.1, 0.5), (0.5, 0.1), (2, 0), (0, 2)),)
    )
    assert drawn(size, boxed(*wild, name=name), quad).shape == (size[1], size[0], 3)


def test_small_pictures_keep_their_boxes_and_lose_their_labels():
    pixels = drawn((60, 40), boxed((0.2, 0.5, 0.8, 0.9)))
    assert (pixels[:18] == GREY).all()
    assert (pixels[18:] != GREY).any()
