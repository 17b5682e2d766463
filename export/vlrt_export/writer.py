"""Writes weights: plans where each parameter will lie, then fills the file block by block.

read rows -> make (convert, quantise) -> write, on all cores; what is in memory at any time is one
block of rows per core, whatever the size of the checkpoint.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import nn
from threadpoolctl import threadpool_limits

from vlrt_export.checkpoint import Checkpoint, Tensor
from vlrt_export.layers.base import parameter_shape
from vlrt_export.weights import Fill
from vlrt_runtime.cores import usable_cores
from vlrt_runtime.errors import CheckpointError

__all__ = ["DataFile", "Unit", "run_units"]

ALIGNMENT = 4096  # bytes; a page, so that parameters can be memory-mapped
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Unit:
    """A block of rows to make and where its bytes go: one (file offset, array) per result."""

    tensor: Tensor
    start: int
    stop: int
    write: Callable[[np.ndarray[Any, Any]], list[tuple[int, np.ndarray[Any, Any]]]]


class DataFile:
    """The external data of one graph."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._planned: list[tuple[Fill, list[int]]] = []

    def plan(self, fill: Fill) -> None:
        """Gives the parameters of `fill` their places, and points them there."""
        offsets: list[int] = []
        for parameter in fill.parameters:
            assert parameter.dtype is not None
            shape = parameter_shape(parameter)
            offset = -(-self.size // ALIGNMENT) * ALIGNMENT
            nbytes = math.prod(shape) * parameter.dtype.itemsize
            parameter.const_value = ir.ExternalTensor(
                self.path.name,
                offset,
                int(nbytes),
                parameter.dtype,
                shape=ir.Shape(shape),
                name=parameter.name or "",
                base_dir=self.path.parent,
            )
            offsets.append(offset)
            self.size = offset + int(nbytes)
        self._planned.append((fill, offsets))

    def units(self) -> Iterator[Unit]:
        """All that is to be made, in the order of the file."""
        for fill, offsets in self._planned:
            first, places = 0, _places(fill, offsets)
            for tensor in fill.tensors:
                for start in range(0, tensor.rows, fill.block_rows):
                    stop = min(tensor.rows, start + fill.block_rows)
                    yield Unit(tensor, start, stop, _placed(fill, places, first + start))
                first += tensor.rows


class _Rows:
    """A parameter whose rows lie one after the other: each block goes to its place at once."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def take(self, row: int, array: np.ndarray[Any, Any]) -> list[tuple[int, Any]]:
        return [(self.offset + row * (array.nbytes // len(array)), array)]


class _Columns:
    """A parameter [k, n] of which rows are columns: gathered, and written when it is whole.

    Writing stripes of it took more time than all the rest.
    """

    def __init__(self, offset: int, parameter: nn.Parameter) -> None:
        assert parameter.dtype is not None
        self.offset, self.shape = offset, parameter_shape(parameter)
        self.dtype, self.missing = parameter.dtype.numpy(), self.shape[1]
        self.lock, self.whole = threading.Lock(), np.empty((0, 0))

    def take(self, row: int, array: np.ndarray[Any, Any]) -> list[tuple[int, Any]]:
        with self.lock:
            if not self.whole.size:
                self.whole = np.empty(self.shape, self.dtype)
        self.whole[:, row : row + len(array)] = array.T
        with self.lock:
            self.missing -= len(array)
            if self.missing:
                return []
            made, self.whole = self.whole, np.empty((0, 0))
        return [(self.offset, made)]


def _places(fill: Fill, offsets: list[int]) -> list[_Rows | _Columns]:
    return [
        _Columns(offset, each) if any(each is c for c in fill.columns) else _Rows(offset)
        for each, offset in zip(fill.parameters, offsets, strict=True)
    ]


def _placed(fill: Fill, places: list[_Rows | _Columns], row: int) -> Any:
    def write(rows: np.ndarray[Any, Any]) -> list[tuple[int, np.ndarray[Any, Any]]]:
        made = zip(places, fill.make(rows), strict=True)
        return [piece for place, array in made for piece in place.take(row, array)]

    return write


def run_units(
    checkpoint: Checkpoint, path: Path, size: int, units: Iterable[Unit], progress: Progress
) -> None:
    """Fills `path` (of `size` bytes) from `units`; `progress` is told of source bytes done.

    Raises:
        CheckpointError: a tensor holds values that cannot be stored; it is named.
        OSError: the disk is full.
    """
    with path.open("wb") as file:
        file.truncate(size)
    feed, lock, stop = iter(units), threading.Lock(), threading.Event()

    def work() -> None:
        # A handle each: seeking needs no lock.
        with path.open("r+b", buffering=0) as file, closing(checkpoint):
            while not stop.is_set():
                with lock:
                    unit = next(feed, None)
                if unit is None:
                    return
                rows = checkpoint.read_float(unit.tensor, unit.start, unit.stop)
                try:
                    if not np.isfinite(rows).all():
                        raise ValueError("holds values that are infinite or not a number")
                    made = unit.write(rows)
                except ValueError as error:
                    where = f"{unit.tensor.name}, rows {unit.start} to {unit.stop}"
                    raise CheckpointError(f"{where}: {error}") from error
                for offset, array in made:
                    file.seek(offset)
                    _write_all(file, array)
                with lock:
                    progress(rows.size * unit.tensor.dtype.itemsize)

    cores = usable_cores()  # one thread each
    # numpy's matrix products would be split among all cores, by each thread.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores) as pool:
        futures = [pool.submit(work) for _ in range(cores)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # one failed, or Ctrl-C: the others end with their block
    for future in futures:
        future.result()


def _write_all(file: Any, array: np.ndarray[Any, Any]) -> None:
    # A bfloat16 array has no buffer of its own kind; its bytes have.
    view, done = memoryview(np.ascontiguousarray(array).view(np.uint8).reshape(-1)), 0
    while done < len(view):
        done += file.write(view[done:])
