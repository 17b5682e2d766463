"""How large the frames of a Qwen2-VL video may be: alone, together, and as the user says."""

from __future__ import annotations

import pytest

from vlrt_runtime.families.qwen2_vl_image import ImageParams
from vlrt_runtime.families.qwen2_vl_video import VideoParams

IMAGE = ImageParams(
    patch_size=14,
    temporal_patch_size=2,
    merge_size=2,
    min_pixels=56 * 56,
    max_pixels=1280 * 784,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    rescale_factor=1 / 255,
    resample=3,
)


def test_frames_share_what_a_video_may_have():
    limits = VideoParams()
    assert limits.frame_pixels(2, IMAGE) == 768 * 784
    assert limits.frame_pixels(10, IMAGE) == 768 * 784
    assert limits.frame_pixels(16, IMAGE) == 512 * 784
    assert limits.frame_pixels(60, IMAGE) == 4096 * 784 * 2 // 60
    assert limits.frame_pixels(768, IMAGE) == int(1.05 * 128 * 784)
    published = VideoParams(max_tokens=int(128_000 * 0.9))
    for frames in (2, 100, 300, 600, 768):
        share = int(128_000 * 784 * 0.9) * 2 // frames
        expected = max(min(768 * 784, share), int(128 * 784 * 1.05))
        assert published.frame_pixels(frames, IMAGE) == expected


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [
        ({}, 128 * 784, 768 * 784),
        ({"max_pixels": 200_000}, 128 * 784, 200_000),
        ({"max_pixels": 50_000}, 50_000, 50_000),
        ({"max_pixels": 10_000_000}, 128 * 784, 768 * 784),
        ({"min_pixels": 3136}, 3136, 768 * 784),
        ({"min_pixels": 10_000_000}, 768 * 784, 768 * 784),
    ],
)
def test_the_users_limits(given: dict[str, int], low: int, high: int):
    limits = VideoParams().limited(given)
    assert (limits.min_pixels, limits.max_pixels) == (low, high)
