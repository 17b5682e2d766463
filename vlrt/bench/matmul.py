"""How many operations a second this machine's matrix products do, by the weights' precision.

A single node, one that packages' int8 and int4 matrices go through, in a model written here byte by
byte: the onnx library is not installed where packages only run. The format is protobuf's wire
encoding of onnx.proto; numbers below are its field numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.cores import usable_cores
from vlrt_runtime.session import ort

__all__ = ["SIDE", "best", "blocks", "matmul_flops", "matmul_model", "whole_rows"]

SIDE = 1536  # rows and columns of the square matrices
BLOCK = 128
FLOAT = 1  # TensorProto.DataType
KINDS = {"float32": FLOAT, "uint8": 2, "int8": 3}
INT = 2  # AttributeProto.AttributeType


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


def matmul_model(
    operator: str, tensors: Mapping[str, NDArray[Any]], attributes: Mapping[str, int]
) -> bytes:
    """An ONNX model of one of onnxruntime's own operators, from x [rows, SIDE] to y.

    Args:
        operator: its name; x is its first input.
        tensors: the inputs behind x.
        attributes: all are integers.
    """
    node = b"".join(_field(1, name) for name in ("x", *tensors))
    node += _field(2, "y") + _field(4, operator) + _field(7, "com.microsoft")
    for name, value in attributes.items():
        node += _field(5, _field(1, name) + _field(3, value) + _field(20, INT))
    graph = _field(1, node) + _field(2, "matmul")
    graph += b"".join(_field(5, _tensor(name, array)) for name, array in tensors.items())
    graph += _field(11, _value("x")) + _field(12, _value("y"))
    opsets = (("", 21), ("com.microsoft", 1))
    imports = (_field(8, _field(1, domain) + _field(2, number)) for domain, number in opsets)
    return _field(1, 10) + _field(7, graph) + b"".join(imports)


Product = tuple[str, dict[str, NDArray[Any]], dict[str, int]]  # what `matmul_model` takes


def blocks(bits: int) -> Product:
    """A matrix of 8 or 4 bits in blocks."""
    shape = (SIDE, SIDE // BLOCK, BLOCK * bits // 8)
    weights = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    attributes = {"K": SIDE, "N": SIDE, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
    return "MatMulNBits", {"w": weights, "s": np.full(shape[:2], 0.01, np.float32)}, attributes


def whole_rows() -> Product:
    """A matrix of 8 bits with a scale per row of it, [k, n] as the operator has it."""
    weights = np.random.default_rng(0).integers(-103, 104, (SIDE, SIDE), np.int8)
    return "DynamicQuantizeMatMul", {"w": weights, "s": np.full(SIDE, 0.01, np.float32)}, {}


def _float32() -> Callable[[], Any]:
    square = np.ones((SIDE, SIDE), np.float32)
    return lambda: square @ square


def _product(operator: str, tensors: Any, attributes: Any) -> Callable[[], Any]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    content = matmul_model(operator, tensors, attributes)
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
    return lambda: session.run(None, {"x": x})


def _tensor(name: str, array: NDArray[Any]) -> bytes:
    shape = b"".join(_field(1, n) for n in array.shape)
    return shape + _field(2, KINDS[array.dtype.name]) + _field(8, name) + _field(9, array.tobytes())


def _value(name: str) -> bytes:
    dims = _field(1, _field(2, "rows")) + _field(1, _field(1, SIDE))
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, dims)))


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
