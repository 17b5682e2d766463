"""Qwen2-VL's preprocessing against transformers' PIL processor: equal to the bit, not nearly."""

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    smart_resize as reference_smart_resize,
)

from vlrt_runtime.errors import ImageError
from vlrt_runtime.families.qwen2_vl_image import (
    ImageParams,
    patchify,
    patchify_frames,
    smart_resize,
)
from vlrt_runtime.image import load_image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PUBLISHED = {"min_pixels": 56 * 56, "max_pixels": 12_845_056}
DEVICE = {"min_pixels": 56 * 56, "max_pixels": 1280 * 28 * 28}


def params(**changes):
    fields = {
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        "rescale_factor": 1 / 255,
        "resample": 3,
        **DEVICE,
    }
    return ImageParams(**{**fields, **changes})


def reference(image, used):
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": used.min_pixels, "longest_edge": used.max_pixels},
        patch_size=used.patch_size,
        temporal_patch_size=used.temporal_patch_size,
        merge_size=used.merge_size,
        image_mean=list(used.mean),
        image_std=list(used.std),
        rescale_factor=used.rescale_factor,
        resample=used.resample,
    )
    out = processor([image], return_tensors="np")
    return out["pixel_values"], tuple(out["image_grid_thw"][0].tolist())


def assert_same(image, used, source=None):
    """`source` is what vlrt is given, where transformers needs it prepared (rotated, say)."""
    expected, expected_grid = reference(image, used)
    patches, grid = patchify(load_image(image if source is None else source), used)
    assert grid == expected_grid
    assert patches.dtype == np.float32
    assert patches.flags.c_contiguous
    assert np.array_equal(patches, expected)


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ------------------------------------------------------------------ sizes


def sizes():
    draws = np.random.default_rng(0)
    edges = [14 * k + d for k in (1, 2, 3, 5, 7, 9, 101, 143) for d in (-1, 0, 1)]
    yield from ((height, width) for height in edges for width in edges)  # halves are at 14 * odd
    for top in (30, 300, 3000, 30_000):
        yield from draws.integers(1, top, (700, 2)).tolist()
    for short in range(1, 40):  # at the very limit of the ratio
        yield short, short * 200
        yield short * 200, short


@pytest.mark.parametrize(
    "limits",
    [
        PUBLISHED,
        DEVICE,
        {"min_pixels": 3136, "max_pixels": 3136},
        {"min_pixels": 784, "max_pixels": 100_000},
        {"min_pixels": 500_000, "max_pixels": 600_000},
        {"min_pixels": 4 * 784, "max_pixels": 500},  # contradictory: the maximum is looked at first
    ],
)
@pytest.mark.parametrize("factor", [28, 32])
def test_smart_resize_is_the_reference(limits, factor):
    count = 0
    for height, width in sizes():
        if max(height, width) > 200 * min(height, width):
            continue
        expected = reference_smart_resize(height, width, factor=factor, **limits)
        assert smart_resize(height, width, factor=factor, **limits) == expected, (height, width)
        count += 1
    assert count > 3000


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((42, 70), (56, 56)),  # 1.5 and 2.5, halves to even, both become 2
        ((336, 500), (336, 504)),
        ((1, 1), (56, 56)),
        ((10, 1000), (28, 560)),
        ((720, 1280), (728, 1288)),
    ],
)
def test_smart_resize_pins(size, expected):
    assert smart_resize(*size, factor=28, **PUBLISHED) == expected


@pytest.mark.parametrize("size", [(1, 201), (201, 1), (3, 601), (20_001, 100)])
def test_a_ratio_over_200_is_refused_with_the_ratio(size):
    with pytest.raises(ValueError, match="aspect ratio"):
        reference_smart_resize(*size)
    ratio = f"{max(size) / min(size):.6g}"
    with pytest.raises(ImageError, match=rf"{size[1]}x{size[0]} .*{ratio}; expected at most 200"):
        smart_resize(*size, factor=28, **DEVICE)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_no_pixels_are_refused(size):
    with pytest.raises(ImageError, match="no pixels"):
        smart_resize(*size, factor=28, **DEVICE)


# ------------------------------------------------------------------ patches


def test_patches_of_many_small_sizes():
    draws = np.random.default_rng(1)
    for seed, (height, width) in enumerate(draws.integers(1, 260, (250, 2)).tolist()):
        if max(height, width) <= 200 * min(height, width):
            assert_same(Image.fromarray(noise(height, width, seed=seed)), params())


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        ((720, 1280), PUBLISHED),
        ((720, 1280), DEVICE),
        ((1500, 2100), {"max_pixels": 200_704}),
        ((1, 200), {}),
        ((200, 1), {}),
        ((40, 50), {"min_pixels": 256 * 784}),
        ((728, 1288), PUBLISHED),  # no resize at all
    ],
)
def test_patches_of_large_and_odd_sizes(size, changes):
    assert_same(Image.fromarray(noise(*size)), params(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"resample": 2},
        {"resample": 0},
        {"patch_size": 16},
        {"merge_size": 1},
        {"temporal_patch_size": 1},
        {"temporal_patch_size": 3},
        {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        {"rescale_factor": 0.00392156862745098},  # as in the published file
    ],
)
def test_patches_with_other_parameters(changes):
    assert_same(Image.fromarray(noise(90, 130)), params(**changes))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_patches_of_every_mode(mode):
    rgba = Image.fromarray(noise(75, 120, 4))
    image = {
        "RGBA": lambda: rgba,
        "LA": lambda: rgba.convert("LA"),
        "PA": lambda: rgba.convert("LA").convert("PA"),
    }.get(mode, lambda: rgba.convert("RGB").convert(mode))()
    assert image.mode == mode
    assert_same(image, params())


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_patches_of_a_file_with_a_transparent_colour(tmp_path, kind):
    path = tmp_path / "picture"
    Image.fromarray(noise(60, 80, 1)).convert("P").save(path, kind, transparency=7)
    with Image.open(path) as image:
        assert_same(image, params(), source=path)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_patches_of_a_rotated_file(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "picture.jpg"
    Image.fromarray(noise(60, 110)).save(path, exif=exif)
    turns = {1: None, 3: 180, 6: 270, 8: 90}[orientation]
    with Image.open(path) as image:
        upright = image if turns is None else image.rotate(turns, expand=True)
        assert_same(upright, params(), source=path)


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_of_an_array(channels):
    values = noise(64, 99, channels)
    assert_same(Image.fromarray(values), params(), source=values)


def test_the_pins_of_a_500x336_picture():
    patches, grid = patchify(Image.fromarray(noise(336, 500)), params())
    assert grid == (1, 24, 36)
    assert patches.shape == (864, 1176)
    assert len(patches) // 4 == 216  # tokens
    assert np.array_equal(
        patches.reshape(864, 3, 2, 196)[:, :, 0], patches.reshape(864, 3, 2, 196)[:, :, 1]
    )


# ------------------------------------------------------------------ frames


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_frames_fill_temporal_patches_and_the_last_is_repeated(count):
    used = params()
    frames = [noise(56, 84, seed=seed) for seed in range(count)]
    patches, grid = patchify_frames(frames, used)
    steps = (count + 1) // 2
    assert grid == (steps, 4, 6)
    assert patches.shape == (steps * 24, 1176)
    by_frame = patches.reshape(steps, 24, 3, 2, 196)
    for index in range(2 * steps):
        alone, _ = reference(Image.fromarray(frames[min(index, count - 1)]), used)
        expected = alone.reshape(24, 3, 2, 196)[:, :, 0]
        assert np.array_equal(by_frame[index // 2, :, :, index % 2], expected)
