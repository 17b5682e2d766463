"""How many operations a second this machine's matrix products do, by the weights' precision.

A single node, one that packages' int8 and int4 matrices go through.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.cores import usable_cores
from vlrt_runtime.operator_model import operator_model
from vlrt_runtime.session import ort, session_options

__all__ = ["SIDE", "best", "blocks", "matmul_flops", "whole_rows"]

SIDE = 1536  # rows and columns of the square matrices
BLOCK = 128


def matmul_flops(seconds: float) -> dict[str, float]:
    """`flops` of float32; of such weights and int8 activations `flops_int8` and `flops_int4`.

    `flops_int8_rows` is of int8 with a scale per row, in place of blocks.
    """
    found = {
        "flops": _float32,
        "flops_int8": lambda: _product(*blocks(8)),
        "flops_int8_rows": lambda: _product(*whole_rows()),
        "flops_int4": lambda: _product(*blocks(4)),
    }
    return {name: 2 * SIDE**3 / best(make(), seconds) for name, make in found.items()}


def best(work: Callable[[], Any], seconds: float) -> float:
    """Seconds of the quickest of many trials: a limit is what can be reached."""
    work()
    quickest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        work()
        quickest = min(quickest, time.perf_counter() - started)
    return quickest


Product = tuple[str, dict[str, NDArray[Any]], dict[str, int]]  # operator, tensors, attributes


def blocks(bits: int) -> Product:
    """A matrix of 8 or 4 bits in blocks."""
    shape = (SIDE, SIDE // BLOCK, BLOCK * bits // 8)
    weights = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    attributes = {"K": SIDE, "N": SIDE, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
    return "MatMulNBits", {"w": weights, "s": np.full(shape[:2], 0.01, np.float32)}, attributes


def whole_rows() -> Product:
    """A matrix of 8 bits with a scale per row of it, [k, n] as the operator has it."""
    weights = np.random.default_rng(0).integers(-127, 128, (SIDE, SIDE), np.int8)
    return "DynamicQuantizeMatMul", {"w": weights, "s": np.full(SIDE, 0.01, np.float32)}, {}


def _float32() -> Callable[[], Any]:
    square = np.ones((SIDE, SIDE), np.float32)
    return lambda: square @ square


def _product(operator: str, tensors: Any, attributes: Any) -> Callable[[], Any]:
    content = operator_model(operator, SIDE, tensors, attributes)
    options = session_options(usable_cores())
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
    return lambda: session.run(None, {"x": x})
