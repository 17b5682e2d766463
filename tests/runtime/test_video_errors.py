"""Video files that cannot be read: what is said of them."""

from __future__ import annotations

import math
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from support.videos import numbered_frame, write_video
from vlrt_runtime.errors import InputError, MissingDependencyError, VideoError
from vlrt_runtime.image import ImageWarning
from vlrt_runtime.video import Video, load_video


def refuse(path, words, **options):
    with pytest.raises(VideoError, match=words) as caught:
        load_video(path, **options)
    assert Path(path).name in str(caught.value)


def test_files_that_are_no_videos(tmp_path):
    refuse(tmp_path / "none.mp4", "cannot be opened")
    refuse(tmp_path, "a folder, not a video")
    (empty := tmp_path / "empty.mp4").write_bytes(b"")
    refuse(empty, "0 bytes")
    (text := tmp_path / "text.mp4").write_text("#EXTM3U\nfile:///etc/passwd")
    refuse(text, "not a video that can be read.*EXTM3U.*MP4, MOV, MKV, WebM, AVI; convert")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    refuse(tmp_path / "picture.png", "not a video that can be read")
    with pytest.raises(VideoError, match="nothing is downloaded"):
        load_video("https://example.org/a.mp4")


def test_sound_alone(tmp_path):
    refuse(write_video(tmp_path / "a.mp4", [], sound=True), "only sound")


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_damaged_files(tmp_path, name):
    path = write_video(tmp_path / name, 20, **({"movflags": "faststart"} if "4" in name else {}))
    whole = path.read_bytes()
    start = whole.find(b"mdat" if "4" in name else b"movi")
    for bad in (
        whole[:14],
        whole[: start // 2],
        whole[:20] + bytes(len(whole) - 20),
        whole[: start + 4] + b"\xa5" * (len(whole) - start - 4),
    ):
        path.write_bytes(bad)
        refuse(path, "damaged|cut short")


def test_a_file_cut_short(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 48, 3), np.uint8)
    path = write_video(tmp_path / "a.mp4", list(noise), movflags="faststart")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    refuse(path, "cut short: .* ends within frame")


def test_a_matroska_file_cut_short_is_told(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 32, 48, 3), np.uint8)
    path = write_video(tmp_path / "a.mkv", list(noise))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(ImageWarning, match=r"a\.mkv.*pictures end after .* of 6\.0 s"):
        assert load_video(path)


def test_random_damage_is_an_error_or_a_video(tmp_path):
    """Whatever a damaged file leads to, it is told as a fault of the file."""
    whole = write_video(tmp_path / "a.mp4", 6).read_bytes()
    draws = np.random.default_rng(0)
    for _ in range(40):
        bad = bytearray(whole)
        for place in draws.integers(0, len(bad), 12):
            bad[place] = draws.integers(0, 256)
        (path := tmp_path / "bad.mp4").write_bytes(bad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImageWarning)
            with suppress(VideoError):
                assert load_video(path, fit=lambda frame, _: frame.resize((8, 8)))


def test_limits(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 20)
    monkeypatch.setattr("vlrt_runtime.video_file.MAX_SECONDS", 1)
    refuse(path, "too long: .* lasts 2 s; expected at most 1")
    monkeypatch.setattr("vlrt_runtime.video_file.MAX_COUNT", 10)
    refuse(path, "too long: .* more than 10 frames")
    monkeypatch.setattr("vlrt_runtime.video_file.MAX_PIXELS", 100)
    refuse(path, "too large: .* is 48x32; expected at most 100")


@pytest.mark.parametrize("options", [{"fps": 0}, {"fps": -1}, {"fps": math.inf}, {"fps": "2"}])
def test_rates_that_cannot_be(tmp_path, options):
    with pytest.raises(InputError, match=r"fps .*expected a number above 0"):
        load_video(tmp_path / "a.mp4", **options)


@pytest.mark.parametrize("most", [0, 1, 769, 4.0])
def test_counts_that_cannot_be(tmp_path, most):
    with pytest.raises(InputError, match=r"max_frames .*expected a whole number from 2 to 768"):
        load_video(tmp_path / "a.mp4", max_frames=most)


def test_no_frame_at_all(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 20)
    monkeypatch.setattr("vlrt_runtime.video.decoded", lambda *_: iter(()))
    refuse(path, "no frame that can be decoded")


def test_without_pyav(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 4)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vlrt\[video\]'"):
        load_video(path)
    assert (
        len(Video([numbered_frame(0, 8, 8)]).frames(lambda frame, _: frame)) == 1
    )  # frames need nothing


def test_no_file_stays_open(tmp_path):
    path = write_video(tmp_path / "a.mp4", 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        load_video(path)
    path.unlink()
