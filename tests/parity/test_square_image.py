"""LLaVA's and SigLIP's preprocessing against transformers' PIL processors: equal to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vlrt_runtime.errors import ImageError
from vlrt_runtime.families.square import ImageParams, square_picture
from vlrt_runtime.image import load_image

CLIP = ImageParams(
    size=336,
    patch_size=14,
    tokens=576,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    rescale_factor=1 / 255,
    resample=3,
    shortest_edge=336,
)
SIGLIP = ImageParams(
    size=384,
    patch_size=14,
    tokens=729,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    rescale_factor=1 / 255,
    resample=3,
)
PROCESSORS = {
    "clip": (
        CLIP,
        CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
    ),
    "siglip": (SIGLIP, SiglipImageProcessorPil(size={"height": 384, "width": 384})),
}


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def assert_same(kind: str, image: Image.Image) -> None:
    params, processor = PROCESSORS[kind]
    expected = processor([image], return_tensors="np")["pixel_values"]
    got = square_picture(load_image(image), params)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert np.array_equal(got, expected), image.size


def sizes() -> list[tuple[int, int]]:
    draws = np.random.default_rng(3)
    few = [(h, w) for h in (335, 336, 337, 383, 384, 385) for w in (1, 335, 336, 384, 671, 673)]
    small = draws.integers(1, 500, (150, 2)).tolist()
    ratios = [(short, short * ratio) for short in (1, 2, 5) for ratio in (2, 7, 33)]
    return [*few, *small, *ratios, *((b, a) for a, b in ratios), (100, 1), (2, 200)]


@pytest.mark.parametrize("kind", PROCESSORS)
def test_many_sizes(kind: str):
    count = 0
    for seed, (height, width) in enumerate(sizes()):
        if kind == "clip" and max(height, width) > 100 * min(height, width):
            continue
        assert_same(kind, Image.fromarray(noise(height, width, seed=seed)))
        count += 1
    assert count >= 180


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_mode(kind: str, mode: str):
    rgba = Image.fromarray(noise(150, 210, 4))
    made = {"RGBA": rgba, "LA": rgba.convert("LA")}.get(mode, rgba.convert("RGB").convert(mode))
    assert made.mode == mode
    assert_same(kind, made)


@pytest.mark.parametrize("changes", [{"resample": 2}, {"resample": 1}, {"rescale_factor": 0.004}])
def test_other_parameters(changes: dict):
    image = Image.fromarray(noise(90, 130))
    params = ImageParams(**{name: getattr(CLIP, name) for name in CLIP.__struct_fields__} | changes)
    processor = PROCESSORS["clip"][1]
    expected = processor([image], return_tensors="np", **changes)["pixel_values"]
    assert np.array_equal(square_picture(image, params), expected)


def test_a_larger_edge_than_the_square():
    image = Image.fromarray(noise(90, 130))
    fields = {name: getattr(CLIP, name) for name in CLIP.__struct_fields__}
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 365}, crop_size={"height": 336, "width": 336}
    )
    expected = processor([image], return_tensors="np")["pixel_values"]
    got = square_picture(image, ImageParams(**fields | {"shortest_edge": 365}))
    assert np.array_equal(got, expected)


def test_white_is_one_for_siglip():
    white = square_picture(Image.new("RGB", (640, 480), "white"), SIGLIP)
    assert white.shape == (1, 3, 384, 384)
    assert (white == 1.0).all()


@pytest.mark.parametrize("size", [(101, 1), (1, 101), (2, 201)])
def test_a_sliver_is_refused_where_the_shorter_side_decides(size: tuple[int, int]):
    with pytest.raises(ImageError, match=r"aspect ratio of 10\d\S*; expected at most 100"):
        square_picture(Image.new("RGB", size), CLIP)
    assert square_picture(Image.new("RGB", size), SIGLIP).shape == (1, 3, 384, 384)


@pytest.mark.parametrize("params", [CLIP, SIGLIP])
def test_no_pixels_are_refused(params: ImageParams):
    with pytest.raises(ImageError, match="no pixels: it is 0x5"):
        square_picture(Image.new("RGB", (0, 5)), params)
