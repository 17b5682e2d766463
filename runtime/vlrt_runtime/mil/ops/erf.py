"""The error function, which numpy lacks: to float32's last bit, in float64 steps.

Source: W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of
Computation 23 (1969), the coefficients of its 18-digit approximations.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vlrt_runtime.mil.types import Array

__all__ = ["erf"]

SMALL, LARGE = 0.46875, 4.0  # beyond LARGE, 1 - erf is below float32's resolution
CHUNK = 1 << 18  # elements at a time: the steps in between stay in a core's cache
# |x| <= SMALL: x * P(x^2) / Q(x^2), highest power first
P_SMALL = (
    1.85777706184603153e-1,
    3.16112374387056560,
    1.13864154151050156e2,
    3.77485237685302021e2,
    3.20937758913846947e3,
)
Q_SMALL = (
    1.0,
    2.36012909523441209e1,
    2.44024637934444173e2,
    1.28261652607737228e3,
    2.84423683343917062e3,
)
# up to LARGE: 1 - exp(-x^2) * P(|x|) / Q(|x|)
P_MIDDLE = (
    2.15311535474403846e-8,
    5.64188496988670089e-1,
    8.88314979438837594,
    6.61191906371416295e1,
    2.98635138197400131e2,
    8.81952221241769090e2,
    1.71204761263407058e3,
    2.05107837782607147e3,
    1.23033935479799725e3,
)
Q_MIDDLE = (
    1.0,
    1.57449261107098347e1,
    1.17693950891312499e2,
    5.37181101862009858e2,
    1.62138957456669019e3,
    3.29079923573345963e3,
    4.36261909014324716e3,
    3.43936767414372164e3,
    1.23033935480374942e3,
)


def erf(x: Array) -> Array:
    """The error function of each element, in the type of x."""
    out = np.empty(x.shape, x.dtype)
    flat, results = np.ascontiguousarray(x).reshape(-1), out.reshape(-1)
    for start in range(0, len(flat), CHUNK):
        results[start : start + CHUNK] = _erf(flat[start : start + CHUNK].astype(np.float64))
    return out


def _erf(x: Array) -> Array:
    size: Array = np.minimum(np.abs(x), LARGE)
    near: Array = size <= SMALL
    square: Array = size * size
    small: Array = size * _ratio(square, P_SMALL, Q_SMALL)
    middle: Array = 1 - np.exp(-square) * _ratio(size, P_MIDDLE, Q_MIDDLE)
    result: Array = np.copysign(np.where(near, small, middle), x)
    return np.where(np.isnan(x), x, result)


def _ratio(x: Array, above: tuple[float, ...], below: tuple[float, ...]) -> Any:
    return np.polyval(above, x) / np.polyval(below, x)
