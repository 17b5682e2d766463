"""Reads a checkpoint folder: its JSON files, and its safetensors lazily, a block of rows at a time.

Nothing here knows a family: names are mapped by the function that the family gives, and nothing is
held in memory but the headers. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from vlrt_export.schema import check
from vlrt_runtime.errors import CheckpointError, CheckpointNotFoundError, shortlist

__all__ = ["Checkpoint", "Tensor", "read_header", "read_json"]

DTYPES = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# What else a file may hold: buffers of positions, which nobody reads, or quantised weights.
FOREIGN = {
    **{"BOOL": np.dtype("?"), "F64": np.dtype("<f8")},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: `offset` counts bytes from the start of `file`."""

    name: str
    file: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Length of the first axis."""
        return self.shape[0] if self.shape else 1

    @property
    def row_size(self) -> int:
        """Elements in one entry of the first axis."""
        return math.prod(self.shape[1:])

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, without what is null: then a default holds, as where it is absent.

    Raises:
        CheckpointError: the file holds no JSON object, or not the values it should.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_said)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name}: expected a JSON object, got {type(value).__name__}")
    check(path.name, value)
    return value


def _said(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if value is not None}


class Checkpoint:
    """A folder as `huggingface_hub` leaves it.

    Args:
        folder: holds config.json and model.safetensors, or shards and their index.

    Raises:
        CheckpointNotFoundError: no such folder, no config.json, no weights, or missing shards.
        CheckpointError: a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise CheckpointNotFoundError(f"{folder}: no such folder")
        if not (folder / "config.json").is_file():
            raise CheckpointNotFoundError(
                f"{folder}: not a checkpoint, it has no config.json; give the folder that holds it"
            )
        self.config = read_json(folder / "config.json")
        self.used: set[str] = set()
        self._handles = threading.local()

    def optional_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder, or an empty object where there is none."""
        path = self.folder / name
        return read_json(path) if path.is_file() else {}

    @cached_property
    def shards(self) -> tuple[Path, ...]:
        """The safetensors files, sorted by name."""
        if (self.folder / INDEX).is_file():
            weight_map = read_json(self.folder / INDEX).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise CheckpointError(f"{INDEX}: it has no 'weight_map'")
            names = sorted({str(name) for name in weight_map.values()})
        elif (self.folder / SINGLE).is_file():
            names = [SINGLE]
        else:
            raise CheckpointNotFoundError(
                f"{self.folder}: it has neither {SINGLE} nor {INDEX}; only safetensors are read: "
                "load it in transformers and save it with save_pretrained, or download it again"
            )
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise CheckpointError(f"{INDEX}: names files outside the folder: {shortlist(outside)}")
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise CheckpointNotFoundError(
                f"{self.folder}: {len(missing)} of {len(names)} weight files are missing: "
                f"{shortlist(missing)}; download the checkpoint again"
            )
        return tuple(self.folder / name for name in names)

    @property
    def files(self) -> dict[str, Path]:
        """The files that weights and sizes are read from, by name."""
        return {path.name: path for path in (*self.shards, self.folder / "config.json")}

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """Every tensor by the name that the file gives it."""
        found: dict[str, Tensor] = {}
        for shard in self.shards:
            for tensor in read_header(shard):
                if tensor.name in found:
                    other = found[tensor.name].file.name
                    raise CheckpointError(f"{tensor.name}: stored in {other} and in {shard.name}")
                found[tensor.name] = tensor
        index = self.folder / INDEX
        if index.is_file():
            lost = sorted(set(read_json(index)["weight_map"]) - set(found))
            if lost:
                raise CheckpointError(f"{INDEX}: names tensors no shard holds: {shortlist(lost)}")
        return found

    def rename(self, canonical: Callable[[str], str | None]) -> dict[str, Tensor]:
        """Tensors by canonical name; `canonical` gives None for those that are no parameters."""
        renamed: dict[str, Tensor] = {}
        for stored_name, tensor in self.stored.items():
            name = canonical(stored_name)
            if name is None:
                continue
            if name in renamed:
                raise CheckpointError(
                    f"{stored_name} and {renamed[name].name} are both {name}: two spellings of "
                    "one tensor in one checkpoint"
                )
            renamed[name] = tensor
        readable = DTYPES.values()
        foreign = [tensor for tensor in renamed.values() if tensor.dtype not in readable]
        if foreign:
            listed = shortlist(f"{tensor.name} ({tensor.dtype})" for tensor in foreign)
            raise CheckpointError(
                f"{self.folder}: {len(foreign)} tensors are not stored as {', '.join(DTYPES)}: "
                f"{listed}; give the unquantised checkpoint"
            )
        return renamed

    def read(self, tensor: Tensor, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows start..stop as stored, [rows, row_size]; safe to call from several threads."""
        stop = tensor.rows if stop is None else stop
        row_bytes = tensor.nbytes // tensor.rows
        buffer = np.empty((stop - start) * row_bytes, np.uint8)
        handle = self._open(tensor.file)
        handle.seek(tensor.offset + start * row_bytes)
        view, done = memoryview(buffer), 0
        while done < len(view):
            count = handle.readinto(view[done:])
            if not count:
                raise CheckpointError(f"{tensor.file.name}: ends inside {tensor.name}")
            done += count
        return buffer.view(tensor.dtype).reshape(stop - start, tensor.row_size)

    def read_float(self, tensor: Tensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start..stop as float32, [rows, row_size]."""
        rows = self.read(tensor, start, stop)
        if tensor.dtype != DTYPES["BF16"]:
            return rows.astype(np.float32, copy=False)
        # A bfloat16 is the upper half of a float32; shifting is ten times faster than a cast.
        wide = np.empty(rows.shape, np.uint32)
        np.left_shift(rows.view(np.uint16), 16, out=wide, dtype=np.uint32)
        return wide.view(np.float32)

    def _open(self, file: Path) -> Any:
        """A handle of this thread's own: seek and read need no lock, on any system."""
        handles = self._handles.__dict__.setdefault("files", {})
        if file not in handles:
            handles[file] = file.open("rb", buffering=0)
        return handles[file]

    def close(self) -> None:
        """Closes what this thread has open; reading opens it again."""
        for handle in self._handles.__dict__.pop("files", {}).values():
            handle.close()


def read_header(shard: Path) -> list[Tensor]:
    """The tensors that a safetensors file says it holds, checked against the file's size."""
    size = shard.stat().st_size
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
            raise CheckpointError(f"{shard.name}: not a safetensors file, or cut short")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{shard.name}: its header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{shard.name}: its header is no JSON object")
    header.pop("__metadata__", None)
    try:
        found = [_entry(shard, name, entry, 8 + length, size) for name, entry in header.items()]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{shard.name}: its header is damaged: {error!r}") from error
    found.sort(key=lambda tensor: tensor.offset)
    for before, after in pairwise(found):
        if before.offset + before.nbytes > after.offset:
            raise CheckpointError(f"{shard.name}: {before.name} and {after.name} overlap: damaged")
    return found


def _entry(shard: Path, name: str, entry: dict[str, Any], base: int, size: int) -> Tensor:
    where = f"{shard.name}: {name}"
    dtype = (DTYPES | FOREIGN).get(entry["dtype"])
    if dtype is None:
        raise CheckpointError(
            f"{where}: dtype {entry['dtype']}, expected one of {', '.join(DTYPES)}; "
            "give the unquantised checkpoint"
        )
    shape = tuple(int(n) for n in entry["shape"])
    first, last = (int(n) for n in entry["data_offsets"])
    if first < 0 or min(shape, default=1) < 1 or last - first != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{where}: {last - first} bytes do not hold {dtype} {list(shape)}")
    if base + last > size:
        raise CheckpointError(
            f"{where}: ends at byte {base + last}, the file at {size}: an unfinished download?"
        )
    return Tensor(name, shard, base + first, dtype, shape)
