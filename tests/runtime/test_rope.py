"""Rotary tables and Qwen2-VL's positions, by their formulas and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlrt_runtime.families.qwen2_vl import mrope_positions, patch_positions
from vlrt_runtime.rope import frequencies, grid_table, mrope_table, rope_table


def slots(text: str) -> np.ndarray:
    """`.` is a token of text, `#` one of a picture."""
    return np.array([letter == "#" for letter in text], np.bool_)


@pytest.mark.parametrize(("dim", "theta"), [(128, 1e6), (16, 1000.0), (40, 1e4), (2, 5e5)])
def test_frequencies_are_the_formula(dim: int, theta: float):
    inverse = frequencies(dim, theta)
    assert inverse.dtype == np.float32
    exact = [theta ** (-2 * i / dim) for i in range(dim // 2)]
    np.testing.assert_allclose(inverse, exact, rtol=3e-7)
    assert inverse[0] == 1


@pytest.mark.parametrize("start", [0, 1, 7, 5000])
def test_a_table_is_cos_and_sin_of_position_times_frequency(start: int):
    inverse = frequencies(16, 1e4)
    cos, sin = rope_table(start, 5, inverse)
    assert cos.shape == sin.shape == (1, 5, 8)
    assert cos.dtype == sin.dtype == np.float32
    for row in range(5):
        angles = [(start + row) * float(f) for f in inverse]
        np.testing.assert_allclose(cos[0, row], [math.cos(a) for a in angles], atol=5e-4)
        np.testing.assert_allclose(sin[0, row], [math.sin(a) for a in angles], atol=5e-4)


def test_each_section_turns_with_its_own_position():
    inverse = np.ones(8, np.float32)
    cos, sin = mrope_table(np.array([[1], [2], [3]]), inverse, (2, 3, 3))
    expected = np.array([1, 1, 2, 2, 2, 3, 3, 3], np.float32)
    np.testing.assert_allclose(cos[0, 0], np.cos(expected))
    np.testing.assert_allclose(sin[0, 0], np.sin(expected))


def test_equal_positions_are_plain_rope():
    inverse = frequencies(16, 1000.0)
    positions = np.tile(np.arange(3, 9), (3, 1))
    for mixed, plain in zip(
        mrope_table(positions, inverse, (2, 3, 3)), rope_table(3, 6, inverse), strict=True
    ):
        np.testing.assert_array_equal(mixed, plain)


def test_a_patch_turns_by_its_row_and_then_its_column():
    cos, sin = grid_table(np.array([[2, 5]]), np.array([1.0, 0.5], np.float32))
    np.testing.assert_allclose(cos[0, 0], np.cos([2, 1, 5, 2.5]), rtol=1e-6)
    np.testing.assert_allclose(sin[0, 0], np.sin([2, 1, 5, 2.5]), rtol=1e-6)


def test_patches_come_in_blocks():
    assert patch_positions((1, 4, 4), 2).tolist()[:6] == [
        *([0, 0], [0, 1], [1, 0], [1, 1]),  # the first block of 2 x 2
        *([0, 2], [0, 3]),
    ]
    assert patch_positions((2, 2, 4), 2).shape == (16, 2)
    assert np.array_equal(patch_positions((2, 2, 4), 2)[:8], patch_positions((1, 2, 4), 2))


@pytest.mark.parametrize(
    ("tokens", "grids", "expected"),
    [
        ("", [], [[], [], []]),
        ("...", [], [[0, 1, 2]] * 3),
        (
            ".####..",
            [(1, 2, 2)],
            [[0, 1, 1, 1, 1, 3, 4], [0, 1, 1, 2, 2, 3, 4], [0, 1, 2, 1, 2, 3, 4]],
        ),
        (
            "###.#",
            [(1, 1, 3), (1, 1, 1)],
            [[0, 0, 0, 3, 4], [0, 0, 0, 3, 4], [0, 1, 2, 3, 4]],
        ),
        (
            "##.",  # taller than wide
            [(1, 2, 1)],
            [[0, 0, 2], [0, 1, 2], [0, 0, 2]],
        ),
    ],
)
def test_positions_by_hand(tokens: str, grids, expected):
    assert mrope_positions(slots(tokens), grids).tolist() == expected
