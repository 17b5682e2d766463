"""Element by element: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from vlrt_runtime.mil.ops.erf import erf
from vlrt_runtime.mil.ops.rule import Rule, broadcast
from vlrt_runtime.mil.types import NUMPY, Array

__all__ = ["RULES"]


def _binary(function: Callable[..., Any]) -> Rule:
    def rule(x: Array, y: Array) -> Array:
        broadcast(x, y)
        return function(x, y)

    return rule


def _unary(function: Callable[..., Any]) -> Rule:
    def rule(x: Array) -> Array:
        return function(x)

    return rule


def _real_div(x: Array, y: Array) -> Array:
    if np.issubdtype(x.dtype, np.integer):
        return np.floor_divide(x, y)
    return np.divide(x, y)


def _select(cond: Array, a: Array, b: Array) -> Array:
    broadcast(cond, a, b)
    return np.where(cond, a, b)


def _cast(x: Array, dtype: str) -> Array:
    # Floats are held as float32; rounding to a declared float16 comes with the result's type.
    target = NUMPY["fp32" if dtype == "fp16" else dtype]
    if np.issubdtype(x.dtype, np.floating) and np.issubdtype(target, np.integer):
        x = np.trunc(x)
    return x.astype(target)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _gelu(x: Array, mode: str = "EXACT") -> Array:
    if mode == "EXACT":
        return 0.5 * x * (1 + erf(x / np.float32(math.sqrt(2))))
    if mode == "TANH_APPROXIMATION":
        scale = np.float32(math.sqrt(2 / math.pi))
        return 0.5 * x * (1 + np.tanh(scale * (x + np.float32(0.044715) * x * x * x)))
    if mode == "SIGMOID_APPROXIMATION":
        return x * _sigmoid(np.float32(1.702) * x)
    raise ValueError(f"mode {mode!r} is unknown")


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def _leaky_relu(x: Array, alpha: Any) -> Array:
    return np.where(x >= 0, x, alpha * x)


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, np.zeros((), x.dtype))


def _softsign(x: Array) -> Array:
    return x / (1 + np.abs(x))


def _clip(x: Array, alpha: Any, beta: Any) -> Array:
    return np.minimum(np.maximum(x, alpha), beta)


def _inverse(x: Array, epsilon: Any = 1e-4) -> Array:
    return 1 / (x + np.float32(epsilon))


def _log(x: Array, epsilon: Any = 1e-45) -> Array:
    return np.log(x + np.float32(epsilon))


def _rsqrt(x: Array, epsilon: Any = 1e-12) -> Array:
    return 1 / np.sqrt(x + np.float32(epsilon))


def _identity(x: Array) -> Array:
    return x


def _softmax(x: Array, axis: Any = -1) -> Array:
    axis = int(axis)
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": _real_div,
    "floor_div": np.floor_divide,
    "mod": np.mod,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}
UNARY: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "cos": np.cos,
    "erf": erf,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "identity": _identity,
    "logical_not": np.logical_not,
    "relu": _relu,
    "round": np.rint,
    "sigmoid": _sigmoid,
    "sign": np.sign,
    "silu": _silu,
    "sin": np.sin,
    "softsign": _softsign,
    "softplus": _softplus,
    "sqrt": np.sqrt,
    "square": np.square,
    "tanh": np.tanh,
}
RULES: dict[str, Rule] = {
    **{name: _binary(function) for name, function in BINARY.items()},
    **{name: _unary(function) for name, function in UNARY.items()},
    "cast": _cast,
    "clip": _clip,
    "gelu": _gelu,
    "inverse": _inverse,
    "leaky_relu": _leaky_relu,
    "log": _log,
    "rsqrt": _rsqrt,
    "select": _select,
    "softmax": _softmax,
}
