"""An `.mlpackage` on disk: its manifest, its program, and its memory-mapped weights.

A package may come from anywhere: nothing outside of its folder is opened, and no size in it is
believed before it is compared with the file.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vlrt_runtime.errors import PackageError, PackageNotFoundError
from vlrt_runtime.mil.schema import SCHEMA
from vlrt_runtime.mil.types import BITS, NUMPY, Array, Type
from vlrt_runtime.mil.wire import decode

__all__ = ["Folder"]

MANIFEST = "Manifest.json"
MAX_MANIFEST = 1 << 20
MAX_PROGRAM = 256 << 20  # bytes; a decoder of 80 layers takes about 10 MB, weights are elsewhere
# weight.bin: at every offset that a program names, this record (all little-endian); source:
# apple/coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp
RECORD = struct.Struct("<IIQQQ")  # sentinel, element type, size in bytes, offset of the data, bits
SENTINEL = 0xDEADBEEF
BLOB_TYPES = {
    1: "fp16",
    2: "fp32",
    3: "uint8",
    4: "int8",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}
MODEL_PATH = "@model_path/"


class Folder:
    """The files of one `.mlpackage`.

    Raises:
        PackageNotFoundError: there is no such folder.
        PackageError: it is damaged, or leads out of itself.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise PackageNotFoundError(f"{path}: no such .mlpackage folder")
        self.path = path
        self.program = self._root_model()
        self._maps: dict[str, Array] = {}

    def model(self) -> dict[str, Any]:
        """The message `Model`, decoded."""
        size = self.program.stat().st_size
        if size > MAX_PROGRAM:
            raise PackageError(f"{self.program}: {size} bytes, expected at most {MAX_PROGRAM}")
        try:
            return decode(self.program.read_bytes(), "Model", SCHEMA)
        except PackageError as error:
            raise PackageError(f"{self.program}: {error}") from error

    def blob(self, name: str, offset: int, declared: Type) -> Array:
        """The bytes of a weight, checked against its declared type: a view of the mapped file."""
        where = f"{self.path}: {name} at {offset}"
        data = self._maps.get(name)
        if data is None:
            data = self._maps[name] = self._map(name)
        if not 0 <= offset <= len(data) - RECORD.size:
            raise PackageError(f"{where}: outside of the file, {len(data)} bytes; export it again")
        sentinel, kind, size, start, _ = RECORD.unpack_from(data, offset)
        if sentinel != SENTINEL:
            raise PackageError(f"{where}: no weight starts there; export the package again")
        if BLOB_TYPES.get(kind) != declared.dtype:
            raise PackageError(
                f"{where}: expected {declared.dtype}, got {BLOB_TYPES.get(kind, f'type {kind}')}"
            )
        expected = (declared.count * BITS[declared.dtype] + 7) // 8
        if size != expected or None in declared.shape:
            raise PackageError(f"{where}: {declared} takes {expected} bytes, the file has {size}")
        if size > len(data) or start > len(data) - size:
            raise PackageError(f"{where}: {size} bytes from {start} lead out of the file")
        if start % NUMPY[declared.dtype].alignment:
            raise PackageError(f"{where}: its data at {start} is not aligned; export it again")
        return data[start : start + size]

    def _root_model(self) -> Path:
        manifest = self._inside(PurePosixPath(MANIFEST))
        if manifest.stat().st_size > MAX_MANIFEST:
            raise PackageError(f"{manifest}: larger than {MAX_MANIFEST} bytes; export it again")
        try:
            content = json.loads(manifest.read_bytes())
            root = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PackageError(f"{manifest}: names no root model; export it again") from error
        return self._inside(PurePosixPath("Data", str(root)))

    def _map(self, name: str) -> Array:
        if not name.startswith(MODEL_PATH):
            raise PackageError(f"{self.path}: weights in {name!r}, expected {MODEL_PATH}...")
        home = self.program.parent.relative_to(self.path).as_posix()
        path = self._inside(PurePosixPath(home, name.removeprefix(MODEL_PATH)))
        if path.stat().st_size == 0:
            raise PackageError(f"{path}: it is empty; export the package again")
        return np.memmap(path, np.uint8, "r")

    def _inside(self, relative: PurePosixPath) -> Path:
        """A file by its path in the folder: no link, and nothing that leads out of it."""
        text = str(relative)
        unsafe = relative.is_absolute() or ".." in relative.parts or "\\" in text or "\0" in text
        path = self.path.joinpath(*relative.parts) if not unsafe else self.path
        if unsafe or not path.resolve().is_relative_to(self.path.resolve()):
            raise PackageError(f"{self.path}: {text!r} leads out of it; do not use it")
        if not path.is_file():
            raise PackageError(f"{self.path}: {relative} is missing; export the package again")
        return path
