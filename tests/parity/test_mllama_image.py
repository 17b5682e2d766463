"""Llama 3.2 Vision's tiles against transformers' PIL processor: equal to the bit, not nearly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.mllama.image_processing_pil_mllama import (
    MllamaImageProcessorPil,
    get_all_supported_aspect_ratios,
    get_image_size_fit_to_canvas,
    get_optimal_tiled_canvas,
)

from vlrt_export.families.mllama_layers import arrangements
from vlrt_runtime.errors import ImageError
from vlrt_runtime.families.mllama import visible_tiles
from vlrt_runtime.families.mllama_image import ImageParams, canvas, cut, fit
from vlrt_runtime.image import load_image

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def params(**changes: Any) -> ImageParams:
    fields = {
        "tile_size": 56,
        "max_tiles": 4,
        "mean": MEAN,
        "std": STD,
        "rescale_factor": 1 / 255,
        "resample": 2,
    }
    fields |= changes
    return ImageParams(**fields, arrangements=tuple(arrangements(fields["max_tiles"])))


def reference(image: Image.Image, used: ImageParams) -> dict[str, Any]:
    processor = MllamaImageProcessorPil(
        size={"height": used.tile_size, "width": used.tile_size},
        max_image_tiles=used.max_tiles,
        image_mean=list(used.mean),
        image_std=list(used.std),
        rescale_factor=used.rescale_factor,
        resample=used.resample,
    )
    return dict(processor([image], return_tensors="np"))


def assert_same(image: Image.Image, used: ImageParams) -> None:
    made = reference(image, used)
    tiles, shape = cut(load_image(image), used)
    assert used.arrangements.index(shape) + 1 == made["aspect_ratio_ids"][0, 0]
    assert shape[0] * shape[1] == made["aspect_ratio_mask"][0, 0].sum()
    assert tiles.dtype == np.float32
    assert np.array_equal(tiles, made["pixel_values"][0, 0])


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 6])
def test_arrangements_are_the_reference(most: int):
    assert arrangements(most) == get_all_supported_aspect_ratios(most)


@pytest.mark.parametrize("side", [56, 448, 560])
def test_canvas_and_size_are_the_reference(side: int):
    draws = np.random.default_rng(side)
    edges = [side * k + d for k in (1, 2, 3, 4) for d in (-1, 0, 1)]
    sizes = [(height, width) for height in edges for width in edges]
    for top in (100, 1000, 10_000):
        sizes += draws.integers(1, top, (300, 2)).tolist()
    for height, width in sizes:
        used = params(tile_size=side)
        rows, columns = canvas(height, width, used)
        expected = get_optimal_tiled_canvas(height, width, 4, side)
        assert (rows * side, columns * side) == expected, (height, width)
        size = get_image_size_fit_to_canvas(height, width, *expected, side)
        assert fit(height, width, (rows, columns), side) == size, (height, width)


def test_tiles_of_many_sizes():
    draws = np.random.default_rng(1)
    for seed, (height, width) in enumerate(draws.integers(1, 400, (250, 2)).tolist()):
        assert_same(Image.fromarray(noise(height, width, seed=seed)), params())


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (1, 5000), (4000, 30), (56, 56)])
def test_tiles_of_odd_sizes(size: tuple[int, int]):
    assert_same(Image.fromarray(noise(*size)), params())


@pytest.mark.parametrize(
    ("side", "size"), [(448, (336, 500)), (560, (720, 1280)), (560, (900, 20))]
)
def test_tiles_of_the_published_sizes(side: int, size: tuple[int, int]):
    assert_same(Image.fromarray(noise(*size)), params(tile_size=side))


@pytest.mark.parametrize(
    "changes",
    [
        {"resample": 3},
        {"resample": 0},
        {"max_tiles": 2},
        {"max_tiles": 6},
        {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        {"rescale_factor": 0.00392156862745098},  # as in the published file
    ],
)
def test_tiles_with_other_parameters(changes: dict[str, Any]):
    assert_same(Image.fromarray(noise(90, 130)), params(**changes))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_tiles_of_every_mode(mode: str):
    rgba = Image.fromarray(noise(75, 120, 4))
    image = {
        "RGBA": lambda: rgba,
        "LA": lambda: rgba.convert("LA"),
        "PA": lambda: rgba.convert("LA").convert("PA"),
    }.get(mode, lambda: rgba.convert("RGB").convert(mode))()
    assert image.mode == mode
    assert_same(image, params())


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_no_pixels_are_refused(size: tuple[int, int]):
    with pytest.raises(ImageError, match=r"no pixels: it is .* expected 1x1 or more"):
        cut(Image.new("RGB", size), params())


@pytest.mark.parametrize("seed", range(40))
def test_masks_are_the_processors(seed: int):
    from transformers.models.mllama import processing_mllama as rules

    draws = np.random.default_rng(seed)
    ids = draws.choice([0, 1], int(draws.integers(1, 12)), p=[0.5, 0.5])
    tiles = draws.integers(1, 5, int(ids.sum())).tolist()
    got = visible_tiles(ids == 1, tiles, 4)
    if not tiles:
        assert got.shape == (len(ids), 0)
        return
    spans = rules.get_cross_attention_token_mask(ids.tolist(), 1)
    dense = rules.convert_sparse_cross_attention_mask_to_dense([spans], [tiles], 4, len(ids))
    assert np.array_equal(got, dense[0].reshape(len(ids), -1) == 1)
