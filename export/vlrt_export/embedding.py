"""The token embedding table as a safetensors file: `weight` [rows, width], int8 with `scales`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx_ir import DataType, ExternalTensor, Shape

from vlrt_export.checkpoint import DTYPES, Tensor
from vlrt_export.quantize import PORTION, whole_rows
from vlrt_export.weights import Table
from vlrt_export.writer import ALIGNMENT, Unit

__all__ = ["EmbeddingFile"]

Rows = NDArray[np.float32]


def _bfloat16(rows: Rows) -> tuple[NDArray[Any], ...]:
    return ((rows.view(np.uint32) >> 16).astype(np.uint16),)  # exact: it was read from bfloat16


def _half(rows: Rows) -> tuple[NDArray[Any], ...]:
    if np.abs(rows).max() > np.finfo(np.float16).max:
        raise ValueError("holds values that fp16 cannot; choose another precision")
    return (rows.astype(np.float16),)


# precision -> (dtype of safetensors, bytes per value, how rows are made)
WEIGHT_FORMATS: dict[str, tuple[str, int, Callable[[Rows], tuple[NDArray[Any], ...]]]] = {
    "fp32": ("F32", 4, lambda rows: (rows,)),
    "fp16": ("F16", 2, _half),
    "bf16": ("BF16", 2, _bfloat16),
    "int8": ("I8", 1, whole_rows),
}
AS_STORED = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
AS_ONNX = {"fp32": "FLOAT", "fp16": "FLOAT16", "bf16": "BFLOAT16", "int8": "INT8"}


class EmbeddingFile:
    """Plans the file of one table.

    Args:
        tensor: the table [rows, width] in the checkpoint.
        precision: fp32, fp16, int8 (a scale per row), or source: as the checkpoint has it.
    """

    def __init__(self, tensor: Tensor, precision: str) -> None:
        self.tensor = tensor
        if precision == "source":
            stored = next(key for key, dtype in DTYPES.items() if dtype == tensor.dtype)
            precision = AS_STORED[stored]
        self.precision = precision
        kind, itemsize, self._make = WEIGHT_FORMATS[precision]
        rows, width = tensor.shape
        end = rows * width * itemsize
        header: dict[str, Any] = {
            "weight": {"dtype": kind, "shape": [rows, width], "data_offsets": [0, end]}
        }
        self._strides = [width * itemsize]
        if precision == "int8":
            scales_end = end + rows * 4
            header["scales"] = {"dtype": "F32", "shape": [rows], "data_offsets": [end, scales_end]}
            self._strides.append(4)
            end = scales_end
        text = json.dumps(header, separators=(",", ":")).encode()
        # Padded with spaces, as the format allows, so that rows start on a page.
        text = text.ljust(ALIGNMENT - 8)
        self.head = len(text).to_bytes(8, "little") + text
        self.size = ALIGNMENT + end
        self._offsets = [ALIGNMENT, ALIGNMENT + rows * width * itemsize]

    def table(self, path: Path) -> Table:
        """The tensors as graphs beside the file may point at them."""
        rows, width = self.tensor.shape
        dtype = DataType[AS_ONNX[self.precision]]
        start, scales = self._offsets
        weight = _external(path, start, scales - start, dtype, [rows, width])
        if self.precision != "int8":
            return Table(weight)
        return Table(weight, _external(path, scales, 4 * rows, DataType.FLOAT, [rows]))

    def units(self) -> Iterator[Unit]:
        """The blocks of rows to make."""
        rows, width = self.tensor.shape
        step = max(1, PORTION // width)
        for start in range(0, rows, step):
            yield Unit(self.tensor, start, min(rows, start + step), self._placed(start))

    def _placed(self, start: int) -> Any:
        def write(rows: Rows) -> list[tuple[int, NDArray[Any]]]:
            made = self._make(rows)
            return [
                (offset + start * stride, array)
                for offset, stride, array in zip(self._offsets, self._strides, made, strict=False)
            ]

        return write


def _external(
    path: Path, offset: int, length: int, dtype: DataType, shape: list[int]
) -> ExternalTensor:
    return ExternalTensor(
        path.name, offset, length, dtype, shape=Shape(shape), name=path.stem, base_dir=path.parent
    )
