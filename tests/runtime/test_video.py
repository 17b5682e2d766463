"""Video files: which frames are taken, upright, and ready frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from support.videos import number_of, numbered_frame, write_video
from vlrt_runtime.errors import ImageError, InputError, VideoError
from vlrt_runtime.video import MOST_FRAMES, Video, as_video, load_video, sample_indices


def numbers(path, **options):
    return [number_of(frame) for frame in load_video(path, **options)]


def same(frame: Image.Image, _: int) -> Image.Image:
    return frame


# ------------------------------------------------------------------ which frames


def reference_indices(total: int, rate: float, fps: float, max_frames: int) -> list[int]:
    """Transformers' formula, with its min_frames 4 and temporal_patch_size 2."""
    torch = pytest.importorskip("torch")
    most = math.floor(min(max_frames, total) / 2) * 2
    count = min(max(total / rate * fps, 4), most, total)
    count = math.floor(count / 2) * 2
    return torch.arange(0, total, total / count).int().tolist()


def test_indices_are_the_references():
    draws = np.random.default_rng(0)
    cases = [(total, 30.0, 2.0, 768) for total in range(2, 400)]
    for _ in range(600):
        total, most = int(draws.integers(2, 20_000)), int(draws.integers(2, 769))
        cases.append((total, float(draws.uniform(1, 120)), float(draws.uniform(0.1, 60)), most))
    differ = compared = 0
    for total, rate, fps, most in cases:
        got = sample_indices(total, rate, fps=fps, max_frames=most)
        want = reference_indices(total, rate, fps, most)
        assert len(got) % 2 == 0
        assert got[0] == 0
        assert got[-1] < total
        assert len(set(got)) == len(got) <= most
        # The reference steps in float32: it may fall to the other side of a whole number, or take
        # one frame too many, which then is an odd number of them.
        assert len(want) - len(got) in (0, 1)
        for place, (index, other) in enumerate(zip(got, want, strict=False)):
            nearest = round(place * total / len(got))
            near = abs(place * total / len(got) - nearest) < 0.005
            assert index == other or (near and abs(index - other) == 1), (total, len(got), place)
            differ += index != other
        compared += len(got)
    assert differ < compared / 500


@pytest.mark.parametrize(
    ("total", "rate", "options", "expected"),
    [
        (20, 10, {}, [0, 5, 10, 15]),  # two seconds: four frames
        (50, 10, {}, [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]),
        (7, 10, {}, [0, 1, 3, 5]),  # at least four
        (5, 10, {}, [0, 1, 2, 3]),
        (3, 10, {}, [0, 1]),  # an even number
        (1, 10, {}, [0]),
        (20, 10, {"fps": 10.0}, list(range(20))),
        (19, 10, {"fps": 100.0}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]),
        (20, 10, {"fps": 0.01}, [0, 5, 10, 15]),
        (100, 10, {"max_frames": 5}, [0, 25, 50, 75]),
        (100, 10, {"max_frames": 2}, [0, 50]),
    ],
)
def test_pins_of_indices(total, rate, options, expected):
    found = sample_indices(total, rate, **{"fps": 2.0, "max_frames": 64, **options})
    if total == 19:
        assert len(found) == 18
        assert found[0] == 0
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "mpeg4"),
        ("a.mov", "mpeg4"),
        ("a.mkv", "mpeg4"),
        ("a.avi", "mpeg4"),
        ("a.webm", "libvpx"),  # with frames in it that are not for showing
    ],
)
def test_frames_of_every_container(tmp_path, name, codec):
    path = write_video(tmp_path / name, 23, codec=codec)
    assert numbers(path) == sample_indices(23, 10, fps=2, max_frames=64) == [0, 5, 11, 17]
    assert numbers(path, fps=100) == [int(k * 23 / 22) for k in range(22)]
    assert numbers(path, max_frames=2) == [0, 11]
    for frame in load_video(path):
        assert frame.mode == "RGB"
        assert frame.size == (48, 32)


def test_a_file_that_counts_more_frames_than_it_shows(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 20)
    monkeypatch.setattr("vlrt_runtime.video.count_frames", lambda *_: (25, 10.0))
    assert numbers(path, fps=10) == list(range(20))


def test_frames_that_refer_to_later_ones(tmp_path):
    path = write_video(tmp_path / "a.mp4", 21, codec="libx264")
    assert numbers(path, fps=10) == [int(k * 21 / 20) for k in range(20)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_short_videos(tmp_path, count):
    path = write_video(tmp_path / "a.mp4", count)
    assert numbers(path) == [0, 1][: max(count // 2 * 2, 1)]


def test_sound_beside_the_pictures(tmp_path):
    assert numbers(write_video(tmp_path / "a.mp4", 20, sound=True)) == [0, 5, 10, 15]


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation_is_applied(tmp_path, turn):
    path = write_video(tmp_path / "a.mp4", 4, rotation=turn)
    expected = Image.fromarray(numbered_frame(0, 48, 32)).rotate(turn, expand=True)
    frame = load_video(path)[0]
    assert frame.size == expected.size
    assert np.abs(np.asarray(frame, float) - np.asarray(expected, float)).mean() < 6


def test_each_frame_is_made_smaller_as_it_comes(tmp_path):
    path = write_video(tmp_path / "a.mp4", 20)
    seen = []

    def fit(frame: Image.Image, count: int) -> Image.Image:
        seen.append((frame.size, count))
        return frame.resize((4, 4))

    assert [frame.size for frame in load_video(path, fit=fit)] == [(4, 4)] * 4
    assert seen == [((48, 32), 4)] * 4


# ------------------------------------------------------------------ ready frames


def test_a_list_of_frames_is_taken_whole(tmp_path):
    arrays = [numbered_frame(number, 24, 16) for number in range(5)]
    Image.fromarray(arrays[2]).save(tmp_path / "two.png")
    mixed = [*arrays[:2], tmp_path / "two.png", Image.fromarray(arrays[3]), arrays[4]]
    for source in (mixed, tuple(mixed), np.stack(arrays)):
        frames = as_video(source).frames(same)
        assert np.array_equal(np.stack([np.asarray(frame) for frame in frames]), np.stack(arrays))


def test_lists_that_are_no_videos():
    frame = numbered_frame(0, 8, 8)
    with pytest.raises(VideoError, match=r"0 frames: expected 1 to 768"):
        Video([]).frames(same)
    with pytest.raises(VideoError, match=rf"{MOST_FRAMES + 1} frames"):
        Video([frame] * (MOST_FRAMES + 1)).frames(same)
    with pytest.raises(VideoError, match="frame 1 is 9x8, the first 8x8"):
        Video([frame, numbered_frame(0, 9, 8)]).frames(same)
    for source in (b"bytes", Image.new("RGB", (8, 8)), 3, None):
        with pytest.raises(VideoError, match="expected a path or a list of frames, got"):
            Video(source).frames(same)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ImageError):
        Video([None]).frames(same)  # pyright: ignore[reportArgumentType]
    for options in ({"fps": 1.0}, {"max_frames": 2}):
        with pytest.raises(InputError, match="for video files"):
            Video([frame], **options).frames(same)
    assert as_video(video := Video([frame])) is video
