"""An ONNX model of one of onnxruntime's own operators, to try what this machine makes of it.

Written here byte by byte: the onnx library is not installed where packages only run. The format is
protobuf's wire encoding of onnx.proto; numbers below are its field numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

__all__ = ["operator_model"]

FLOAT = 1  # TensorProto.DataType
KINDS = {"float32": FLOAT, "uint8": 2, "int8": 3}
INT = 2  # AttributeProto.AttributeType


def operator_model(
    operator: str, k: int, tensors: Mapping[str, NDArray[Any]], attributes: Mapping[str, int]
) -> bytes:
    """A model from x float32 [rows, k] to y float32.

    Args:
        operator: its name; x is its first input.
        k: columns of x.
        tensors: the inputs behind x.
        attributes: all are integers.
    """
    node = b"".join(_field(1, name) for name in ("x", *tensors))
    node += _field(2, "y") + _field(4, operator) + _field(7, "com.microsoft")
    for name, value in attributes.items():
        node += _field(5, _field(1, name) + _field(3, value) + _field(20, INT))
    graph = _field(1, node) + _field(2, "matmul")
    graph += b"".join(_field(5, _tensor(name, array)) for name, array in tensors.items())
    graph += _field(11, _value("x", k)) + _field(12, _value("y", "columns"))
    opsets = (("", 21), ("com.microsoft", 1))
    imports = (_field(8, _field(1, domain) + _field(2, number)) for domain, number in opsets)
    return _field(1, 10) + _field(7, graph) + b"".join(imports)


def _tensor(name: str, array: NDArray[Any]) -> bytes:
    shape = b"".join(_field(1, n) for n in array.shape)
    return shape + _field(2, KINDS[array.dtype.name]) + _field(8, name) + _field(9, array.tobytes())


def _value(name: str, columns: int | str) -> bytes:
    dims = b"".join(
        _field(1, _field(2 if isinstance(size, str) else 1, size)) for size in ("rows", columns)
    )
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
