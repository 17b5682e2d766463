"""Turned 8-bit matrices against the arithmetic written out, and against what blocks would lose."""

from __future__ import annotations

import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from scipy.linalg import hadamard

from vlrt_export import graph
from vlrt_export.layers.base import FLOAT, Layer
from vlrt_export.layers.turned import Turned8, turning_block
from vlrt_export.quantize import quantize
from vlrt_runtime.session import ort, products_saturate, session_options

SHAPES = [(5, 64), (96, 128), (31, 1176), (40, 4304), (7, 45), (130, 1280)]


class Alone(Layer):
    """One matrix as a graph from x [1, s, k] to y [1, s, n]."""

    def __init__(self, rows: np.ndarray, bias: np.ndarray | None) -> None:
        super().__init__()
        n, self.k = rows.shape
        self.storage = Turned8(SimpleNamespace(dtype=FLOAT), n, self.k)  # type: ignore[arg-type]
        codes, scales = self.storage.make(rows)
        self.weight, self.scales = self.storage.weight, self.storage.scales
        self.weight.const_value = ir.tensor(np.ascontiguousarray(codes.T))
        self.scales.const_value = ir.tensor(scales)
        self.bias = bias

    def trace(self, builder: Any) -> Any:
        x = builder.input("x", FLOAT, [1, "s", self.k])
        yield "y", self(builder.op, x)

    def forward(self, op: Any, x: Any) -> Any:
        bias = None if self.bias is None else op.Constant(value=ir.tensor(self.bias))
        return self.storage.matmul(op, x, bias)


def product(x: np.ndarray, rows: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    model = ir.to_proto(graph.build(Alone(rows, bias), "g"))
    options, providers = session_options(2), ["CPUExecutionProvider"]
    session = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    return session.run(None, {"x": x[None]})[0][0]


def turned(rows: np.ndarray) -> np.ndarray:
    """Rows times a Hadamard matrix in every block, in float64."""
    k = rows.shape[1]
    block = turning_block(k)
    return rows @ np.kron(np.eye(k // block), hadamard(block) / np.sqrt(block))


def stored(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    layer = Turned8(SimpleNamespace(dtype=FLOAT), *rows.shape)  # type: ignore[arg-type]
    codes, scales = layer.make(rows)
    return codes.astype(np.float64), scales.astype(np.float64)


def by_hand(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Turn, divide by the largest, round to 8 bits, multiply integers, scale back: in float64."""
    codes, scales = stored(rows)
    largest = np.abs(turned(x)).max(1, keepdims=True)
    unit = turned(x) / np.where(largest == 0, 1, largest)
    # DynamicQuantizeLinear: https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html
    low, high = min(unit.min(), 0), max(unit.max(), 0)
    step = (high - low) / 255
    zero = np.clip(np.rint(-low / step), 0, 255)
    levels = np.clip(np.rint(unit / step) + zero, 0, 255) - zero
    return levels @ codes.T * step * scales * largest


def normal(rng: np.random.Generator, n: int, k: int, spread: float = 1.0) -> np.ndarray:
    return (rng.standard_normal((n, k)) * spread).astype(np.float32)


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_the_graph_computes_what_the_layer_says(n, k):
    rng = np.random.default_rng(k)
    x, rows, bias = normal(rng, 33, k), normal(rng, n, k, 0.02), normal(rng, 1, n)[0]
    x[5], x[6] = 0, 1e-6 * x[6]  # a row of zeros, and one that is hardly anything
    found, expected = product(x, rows, bias), by_hand(x, rows) + bias
    # A value that lies between two levels may go either way: one of k steps of 1/127.
    step = np.linalg.norm(x, axis=1, keepdims=True) * np.abs(rows).max() / 60
    assert (np.abs(found - expected) <= 1e-5 + step).all()
    assert np.abs(found - expected).mean() <= 1e-5 + 2e-3 * np.abs(expected - bias).mean()
    np.testing.assert_array_equal(found[5], bias)


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_weights_are_turned_and_rounded_to_the_nearest_code(n, k):
    rows = normal(np.random.default_rng(k), n, k, 0.02)
    codes, scales = stored(rows)
    np.testing.assert_allclose(scales, np.abs(turned(rows)).max(1) / 127, rtol=1e-5)
    assert (np.abs(codes - turned(rows) / scales[:, None]) < 0.5001).all()


def test_rows_of_other_batches_and_axes_are_alike():
    rng = np.random.default_rng(0)
    x, rows = normal(rng, 6, 64), normal(rng, 16, 64)
    np.testing.assert_allclose(product(x[:1], rows), by_hand(x[:1], rows), rtol=0, atol=0.02)


def blockwise(x: np.ndarray, rows: np.ndarray, block: int = 128) -> np.ndarray:
    """MatMulNBits at accuracy level 4: activations of 8 bits with a scale per block, by hand."""
    codes, scales, zeros = quantize(rows, bits=8, block=block)
    weight = (codes.astype(np.float64) - zeros[..., None]) * scales[..., None]
    cut = x.reshape(len(x), -1, block).astype(np.float64)
    steps = np.abs(cut).max(-1, keepdims=True) / 127
    return (np.rint(cut / steps) * steps).reshape(x.shape) @ weight.reshape(rows.shape).T


def loss(made: np.ndarray, exact: np.ndarray) -> float:
    """By row: a few large ones would hide the rest."""
    return float(np.sqrt((np.square(made - exact).sum(-1) / np.square(exact).sum(-1)).mean()))


@pytest.mark.parametrize("k", [1280, 5120])
@pytest.mark.parametrize("kind", ["even", "channels", "channels, tokens", "one of one token"])
def test_outliers_cost_less_than_with_blocks(kind, k):
    rng = np.random.default_rng(1)
    x, rows = normal(rng, 256, k), normal(rng, 96, k, 0.02)
    if "channels" in kind:
        x[:, :: k // 13] *= 20
    if "tokens" in kind:
        x[:: 256 // 13] *= 20
    if "one" in kind:
        x[17, 100] = 1000
    exact = x.astype(np.float64) @ rows.T
    ours, blocks = loss(product(x, rows), exact), loss(blockwise(x, rows), exact)
    # Two roundings of a uniform error: 1/127 of the largest of k weights and 1/255 of the range of
    # k activations, some 3.5 and 7 to 9 deviations wide.
    assert ours < 0.017
    assert ours < blocks or "channels" not in kind


def test_products_do_not_saturate():
    """x86 without VNNI adds pairs of u8 x s8 in 16 bits (VPMADDUBSW) unless it is told not to."""
    rows, x = np.ones((64, 64), np.float32), np.ones((8, 64), np.float32)
    rows, x = (each @ hadamard(64).astype(np.float32) / 8 for each in (rows, x))  # ones once turned
    np.testing.assert_allclose(product(x, rows), 64, rtol=1e-5)
    flags = Path("/proc/cpuinfo")
    if flags.exists() and platform.machine() == "x86_64":
        told = flags.read_text()
        assert products_saturate() == ("avx512_vnni" not in told and "avx_vnni" not in told)
