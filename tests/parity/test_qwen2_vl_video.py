"""Qwen2-VL's videos beside transformers' model, which is given the patches and their grid.

transformers' own video processor needs torchvision; its patches are transcribed here from its
formula, with Pillow's resize in the place of torchvision's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from support.pictures import checker, gradient, picture
from support.qwen2_vl_video import TOKENS, Expected, clip
from vlrt.verify.reference import load_reference, to_numpy
from vlrt_export.checkpoint import Checkpoint
from vlrt_export.exporter import export
from vlrt_export.families.qwen2_vl_config import video_limits
from vlrt_runtime.errors import InputError, PackageError
from vlrt_runtime.families import family_of
from vlrt_runtime.families.qwen2_vl import mrope_positions
from vlrt_runtime.families.qwen2_vl_video import VideoParams
from vlrt_runtime.manifest import read_manifest
from vlrt_runtime.model import Model
from vlrt_runtime.video import Video

TOLERANCE = 1e-4
LIMITS = {"min_pixels": 56 * 56, "max_pixels": 84 * 84}  # of the tests' model: few patches


def part(video: Any) -> dict[str, Any]:
    return {"type": "video", "video": video}


def shown(image: Any) -> dict[str, Any]:
    return {"type": "image", "image": image}


def user(*parts: Any) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts],
    }


CHATS = {
    "two frames": [user(part(clip(2)), "What happens?")],
    "an odd number of frames": [user(part(clip(5)), "What happens?")],
    "one frame": [user(part(clip(1)), "Describe this.")],
    "a picture, then a video": [user(shown(gradient(90, 60)), part(clip(4)), "Compare them.")],
    "a video, text, then a picture": [user(part(clip(3)), " and ", shown(picture(60, 90)), "?")],
    "two videos in two turns": [
        user(part(clip(2)), "What happens?"),
        {"role": "assistant", "content": [{"type": "text", "text": "Much."}]},
        user("And ", part(clip(6, 40, 90)), shown(checker(60, 60)), "here?"),
    ],
}


@pytest.fixture(scope="module")
def package(small_qwen2_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small_qwen2_vl, tmp_path_factory.mktemp("video") / "fp32", precision="fp32")


@pytest.fixture(scope="module")
def model(package: Path) -> Model:
    return Model(package, threads=1, **LIMITS)


@pytest.fixture(scope="module")
def reference(small_qwen2_vl: Path) -> Any:
    return load_reference(small_qwen2_vl, "qwen2_vl")


def close(got: np.ndarray, want: Any, what: str) -> None:
    want = want if isinstance(want, np.ndarray) else to_numpy(want)
    assert got.shape == want.shape, what
    difference = float(np.abs(got - want).max())
    print(f"{what}: {difference:.1e} of {np.abs(want).max():.1f}")
    assert difference < TOLERANCE, f"{what}: {difference:.2e}"


@pytest.mark.parametrize("chat", CHATS)
def test_every_stage_and_the_tokens(model: Model, reference: Any, chat: str):
    messages = CHATS[chat]
    expected = Expected(reference, messages, **LIMITS)
    layout, pictures = model.prepare(messages)
    assert layout.token_ids.tolist() == expected.token_ids
    assert [picture.kind for picture in pictures] == [kind for kind, _ in expected.order]
    encoded = [model.encode(picture) for picture in pictures]
    projected = [model.projector(outputs) for outputs in encoded]
    for place, (kind, index) in enumerate(expected.order):
        patches, grid = expected.given[kind][index]
        assert pictures[place].grid == grid
        assert np.array_equal(pictures[place].inputs["pixel_values"][0], patches)
        features = encoded[place]["image_features"][0]
        close(features, expected.features[kind][index], f"{kind} features")
        rows = projected[place]["image_embeds"][0]
        close(rows, expected.projected[kind][index], f"{kind} projected")
    merged = [(t, h // 2, w // 2) for t, h, w in (picture.grid for picture in pictures)]
    positions = mrope_positions(layout.slots, merged)
    assert np.array_equal(positions, expected.positions)
    assert int(positions.max()) + 1 - len(expected.token_ids) == expected.delta
    embeds = model.splice(layout, projected)
    close(embeds, expected.embeds, "spliced embeddings")
    logits = model.decoder().run(layout.inputs(embeds, 0), num_logits=len(layout.token_ids))
    close(logits, expected.logits, "logits")
    print(f"margin {expected.margin:.3f}")
    assert expected.margin > 10 * TOLERANCE, "near ties: this prompt proves nothing"
    answer = model.generate(messages, max_new_tokens=TOKENS)
    assert answer.token_ids == expected.chosen
    assert len(answer.token_ids) >= 16


def test_positions_of_a_video():
    """Time goes on by one a moment, and text from the largest of all three, as in 4.45.

    transformers 5 leaves time out of it: there the text after this video would start at 4.
    """
    slots = np.array([0] * 2 + [1] * 12 + [0] * 2, bool)
    time, row, column = mrope_positions(slots, [(3, 2, 2)]).tolist()
    assert time == [0, 1, *[2] * 4, *[3] * 4, *[4] * 4, 5, 6]
    assert row == [0, 1, *[2, 2, 3, 3] * 3, 5, 6]
    assert column == [0, 1, *[2, 3] * 6, 5, 6]


def test_moments_do_not_see_one_another(model: Model):
    """What the encoder makes of a pair of frames is the same alone and within a video."""
    frames = clip(6)
    _, (whole,) = model.prepare("?", videos=[frames])
    _, (middle,) = model.prepare("?", videos=[frames[2:4]])
    size = len(middle.inputs["pixel_values"][0])
    assert whole.runs == 3
    assert middle.runs == 1
    features = model.encode(whole)["image_features"][:, size : 2 * size]
    assert np.array_equal(features, model.encode(middle)["image_features"])


def test_videos_beside_the_prompt(model: Model):
    """As part of a message, in the list, as a file's `Video`: the same prompt."""
    frames = clip(4)
    layout, _ = model.prepare([user(shown(gradient(60, 60)), part(frames), "What?")])
    for prompt in (
        "What?",
        [user({"type": "image"}, {"type": "video"}, "What?")],
        [user(shown(gradient(60, 60)), {"type": "video"}, "What?")],
    ):
        images = [] if "mode=RGB" in str(prompt) else [gradient(60, 60)]
        same, pictures = model.prepare(prompt, images, [Video(frames)])
        assert np.array_equal(same.token_ids, layout.token_ids)
        assert [picture.kind for picture in pictures] == ["image", "video"]
        assert pictures[1].size == (100, 70)
        assert pictures[1].grid == (2, 4, 8)
        assert pictures[1].tokens == 2 * 2 * 4


def test_a_raw_prompt(model: Model):
    text = "<|vision_start|><|video_pad|><|vision_end|>What?"
    layout, _ = model.prepare(text, videos=[clip(2)], raw=True)
    assert int(layout.slots.sum()) == 8
    with pytest.raises(InputError, match="differ in kind"):
        model.prepare(text, [gradient(60, 60)], raw=True)
    with pytest.raises(InputError, match="1 picture placeholders, 0 pictures given"):
        model.prepare(text, raw=True)
    with pytest.raises(InputError, match="pictures and videos together need messages"):
        model.prepare(text, [gradient(60, 60)], [clip(2)], raw=True)


def test_videos_that_do_not_fit_the_prompt(model: Model):
    with pytest.raises(InputError, match="expected a list of videos, got one"):
        model.generate("?", videos="a.mp4")
    with pytest.raises(InputError, match=r'videos: 0 given, for 1 \{"type": "video"\} parts'):
        model.generate([user({"type": "video"}, "?")])
    with pytest.raises(InputError, match="videos: 1 given, for 0"):
        model.generate([user("?")], videos=[clip(2)])


def test_a_file(model: Model, tmp_path: Path):
    pytest.importorskip("av")
    from support.videos import write_video

    path = write_video(tmp_path / "a.mp4", 40)
    grids = {}
    for name, video in {
        "usual": path,
        "fewer": Video(path, max_frames=4),
        "more": Video(path, fps=5.0),
    }.items():
        _, (made,) = model.prepare("?", videos=[video])
        grids[name] = made.grid[0]
    assert grids == {"usual": 4, "fewer": 2, "more": 10}
    content = {"type": "video", "video": str(path), "fps": 5.0, "max_frames": 16}
    _, (made,) = model.prepare([user(content, "?")])
    assert made.grid[0] == 8
    answer = model.generate("What happens?", videos=[path], max_new_tokens=4)
    assert answer.image_tokens == made.tokens // 2


# ------------------------------------------------------------------ limits


def test_the_checkpoints_own_limits(package: Path, tmp_path: Path):
    """As transformers saves its video processor, in a file of its own or beside the others."""
    (tmp_path / "config.json").write_text("{}")
    size = {"size": {"shortest_edge": 3136, "longest_edge": 250_000}}
    for name, content in {
        "video_preprocessor_config.json": size,
        "processor_config.json": {"video_processor": size},
    }.items():
        (tmp_path / name).write_text(json.dumps(content))
        found = video_limits(Checkpoint(tmp_path))
        assert found == {"video": {"min_pixels": 3136, "max_pixels": 250_000}}
        (tmp_path / name).unlink()
    assert video_limits(Checkpoint(tmp_path)) == {}
    manifest = read_manifest(package)
    assert "video" not in manifest.image
    own = msgspec.structs.replace(manifest, image=manifest.image | found)
    assert family_of(own).video_limits == VideoParams(min_pixels=3136, max_pixels=250_000)  # pyright: ignore[reportAttributeAccessIssue]
    for wrong in ({"min_pixels": 0}, {"max_pixels": "many"}, 3):
        bad = msgspec.structs.replace(manifest, image=manifest.image | {"video": wrong})
        with pytest.raises(PackageError, match=r"manifest\.json"):
            family_of(bad)


def test_the_usual_size_of_frames(package: Path):
    _, (made,) = Model(package, threads=1).prepare("?", videos=[clip(3, 640, 360)])
    assert made.grid == (2, 26, 46)
    small = Model(package, threads=1, max_pixels=100 * 784)
    _, (made,) = small.prepare("?", videos=[clip(3, 640, 360)])
    assert made.grid[1] * made.grid[2] // 4 <= 100
