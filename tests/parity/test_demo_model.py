"""The shipped model: what it says is pinned, and what precision costs is bounded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.demo import QA, Scene, scene
from support.parity import assert_parity
from vlrt.demo import CHECKPOINT
from vlrt.verify.reference import load_reference
from vlrt_export.exporter import export
from vlrt_runtime.model import Model

SCENES = 60
# Seed -> question, answer: of held-out scenes, in fp32.
PINS = {
    4: ("Describe this picture.", "A black letter X and a red digit 9."),
    9: ("How many things are there?", "2"),
    16: ("What colour is the square?", "Red"),
    21: ("What is left of the yellow star?", "Nothing."),
    29: ("Where is the black letter A?", "(770,100),(990,430)"),
    34: ("Which digit is black?", "8"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("demo")
    return {
        kind: Model(export(CHECKPOINT, folder / kind, precision=kind), threads=1)
        for kind in ("fp32", "int4")
    }


def asked(made: Scene, seed: int) -> Iterator[QA]:
    """One question with an exact answer."""
    exact = [qa for qa in made.qa if qa.box is None]
    yield exact[seed % len(exact)]


def right(model: Model) -> int:
    made = ((seed, scene(seed, "seen")) for seed in range(SCENES))
    return sum(
        model.generate(qa.question, images=[s.picture], max_new_tokens=64).text == qa.answer
        for seed, s in made
        for qa in asked(s, seed)
    )


@pytest.mark.parametrize("seed", PINS)
def test_fixed_pictures_have_fixed_answers(models: dict[str, Model], seed: int):
    question, answer = PINS[seed]
    picture = scene(seed, "seen").picture
    assert models["fp32"].generate(question, images=[picture]).text == answer


def test_int4_answers_nearly_as_well_as_fp32(models: dict[str, Model]):
    full, small = right(models["fp32"]), right(models["int4"])
    assert full >= 0.95 * SCENES
    assert small >= 0.95 * full


def test_boxes_lie_on_the_things(models: dict[str, Model]):
    made = scene(8, "seen")
    for qa in (qa for qa in made.qa if qa.box is not None):
        answer = models["fp32"].generate(qa.question, images=[made.picture])
        (entity,) = answer.entities
        assert np.abs(np.array(entity.boxes[0]) - np.array(qa.box) / 1000).max() < 0.06


def test_the_package_is_the_checkpoint(models: dict[str, Model]):
    reference = load_reference(CHECKPOINT, "qwen2_vl")
    content = [{"type": "image"}, {"type": "text", "text": "Describe the picture."}]
    picture = scene(5, "seen").picture
    assert_parity(models["fp32"], reference, [{"role": "user", "content": content}], [picture])


def test_scenes_are_the_same_in_another_process():
    code = (
        "import hashlib, support.demo as d; s = d.scene(7, 'unseen'); "
        "print(s.things, s.qa, hashlib.sha256(s.picture.tobytes()).hexdigest())"
    )
    tests = str(Path(__file__).parents[1])
    runs = {
        subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r}); {code}"],
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
