"""`vlrt run --annotate`: the first picture with what the answer points at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.commands import told
from vlrt_runtime.model import Model

ANSWER = (
    "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(100,200),(900,800)<|box_end|><|im_end|>"
)


@pytest.fixture
def pointing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked, the answer has one box."""

    def choose(model: Model, logits: object, seen: list[int], *_: object) -> int:
        ids = model.codec.encode(ANSWER, bare=True)
        return ids[(len(seen) - _prompt_length(seen, ids))]

    monkeypatch.setattr(Model, "choose", choose)


def _prompt_length(seen: list[int], ids: list[int]) -> int:
    """How many of the ids seen come before the answer begun."""
    begun = max(k for k in range(len(ids)) if seen[len(seen) - k :] == ids[:k])
    return len(seen) - begun


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.usefixtures("pointing")
def test_boxes_are_drawn_and_in_the_json(command, small_package: Path, photo: str):
    status, out, err = command(
        "run", small_package, "Where?", "--image", photo, "--annotate", "out.png", "--json"
    )
    assert (status, err) == (0, "")
    (found,) = json.loads(out)["entities"]
    assert found == {
        "name": "dog",
        "span": [0, 3],
        "boxes": [[0.1, 0.2, 0.9, 0.8]],
        "image": 0,
        "pixel_boxes": [[9, 12, 81, 48]],
    }
    changed = (pixels("out.png") != pixels(photo)).any(2)
    assert changed.shape == (60, 90)
    assert changed[12:48, 9].all()
    assert not changed[20:40, 20:70].any()


@pytest.mark.usefixtures("pointing")
def test_of_two_pictures_none_is_chosen(command, small_package: Path, photo: str):
    argv = ("--image", photo, "--image", photo, "--annotate", "out.png")
    status, out, err = command("run", small_package, "Where?", *argv)
    assert (status, out) == (0, "dog(100,200),(900,800)\n")
    assert "out.png has no boxes: the answer does not say of which picture" in err
    assert np.array_equal(pixels("out.png"), pixels(photo))


def test_without_boxes_the_picture_is_written_all_the_same(
    command, small_package: Path, photo: str
):
    argv = ("--image", photo, "--annotate", "out.jpg", "--max-new-tokens", 2)
    status, _, err = command("run", small_package, "Hi", *argv)
    assert status == 0
    assert "vlrt: note: out.jpg has no boxes: the answer has none" in err
    assert pixels("out.jpg").shape == (60, 90, 3)


def test_what_cannot_be_written_is_said_first(command, small_package: Path, photo: str):
    line = told(command("run", small_package, "Hi", "--annotate", "out.png"), 2)
    assert "--annotate: there is no picture to draw on; give one with --image" in line
    for name, why in (("out", "expected a name that ends in .png"), ("no/out.png", "folder")):
        argv = ("--image", photo, "--annotate", name)
        assert why in told(command("run", small_package, "Hi", *argv), 2)
