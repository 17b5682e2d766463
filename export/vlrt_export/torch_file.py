"""Reads what `torch.save` wrote, tensors only, and does nothing that the file asks for.

Such a file is a zip: the raw bytes of every storage, and a pickle that says which part of which
storage a tensor is. A pickle is a program. Here it is not run: its instructions are read one by
one, those that a dictionary of tensors needs are followed, and any other name or instruction is
refused. No bytes of tensors are read: a `Tensor` says where they lie, as for a safetensors file.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrt_export.checkpoint import DTYPES, Tensor
from vlrt_runtime.errors import CheckpointError

__all__ = ["read_torch_file"]

MAX_PICKLE = 16 << 20  # bytes; names and shapes take a few hundred a tensor
LOCAL_HEADER = 30  # bytes of a zip entry's own header, before its name and extra field
STORAGES = {
    "torch FloatStorage": "F32",
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
}


@dataclass(frozen=True)
class Name:
    """A function or class that the pickle names; never looked up."""

    text: str


@dataclass(frozen=True)
class View:
    """A tensor: part of a storage."""

    storage: tuple[Any, ...]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: Path) -> list[Tensor]:
    """The tensors that a file says it holds.

    Raises:
        CheckpointError: it holds anything but named tensors, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next(i for i in archive.infolist() if i.filename.endswith("/data.pkl"))
            if entry.file_size > MAX_PICKLE:
                raise ValueError(f"its pickle has {entry.file_size} bytes")
            named = Machine().run(archive.read(entry))
            if not isinstance(named, dict):
                raise ValueError(f"it holds a {type(named).__name__}, not tensors by name")
            folder = entry.filename.removesuffix("data.pkl")
            infos = {info.filename: info for info in archive.infolist()}
            order = infos.get(f"{folder}byteorder")
            if order is not None and archive.read(order) != b"little":
                raise ValueError("it was written on a big-endian machine")
            with path.open("rb") as file:
                return [
                    _located(path, file, infos, folder, name, view) for name, view in named.items()
                ]
    except Exception as error:  # the file may hold anything
        raise CheckpointError(
            f"{path}: not a file of tensors that can be read safely: {error}; convert it where "
            'torch is installed: python -c "import torch, safetensors.torch as s; s.save_file('
            f"torch.load('{path.name}', map_location='cpu', weights_only=True), "
            f"'{path.stem}.safetensors')\""
        ) from error


def _located(
    path: Path, file: Any, infos: dict[str, zipfile.ZipInfo], folder: str, name: Any, view: Any
) -> Tensor:
    """Where a tensor lies in the file."""
    if not isinstance(name, str) or not isinstance(view, View):
        raise ValueError(f"{name!r} is no tensor")
    kind, storage, key, _, count = view.storage
    if kind != "storage" or not isinstance(storage, Name) or storage.text not in STORAGES:
        raise ValueError(f"{name} is stored as {getattr(storage, 'text', storage)!r}")
    dtype, shape = DTYPES[STORAGES[storage.text]], view.shape
    row_major = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    if view.strides != row_major:
        raise ValueError(f"{name} is not contiguous: strides {list(view.strides)}")
    info = infos[f"{folder}data/{key}"]
    last = (view.offset + math.prod(shape)) * dtype.itemsize
    inside = min(view.offset, *shape) >= 0 and last <= min(info.file_size, count * dtype.itemsize)
    if info.compress_type != zipfile.ZIP_STORED or not inside or 0 in shape:
        raise ValueError(f"{name} does not lie within {info.filename}")
    file.seek(info.header_offset)
    header = file.read(LOCAL_HEADER)
    begin = info.header_offset + LOCAL_HEADER
    begin += int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return Tensor(name, path, begin + view.offset * dtype.itemsize, dtype, shape)


def _rebuilt(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> View:
    return View(tuple(storage), int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


# What the pickle may call, and what is done in its place.
CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": lambda: {},
    "torch._utils _rebuild_tensor_v2": _rebuilt,
    "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
}
PUSHES = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False}
PUSHES |= {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINFLOAT"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass
class Machine:
    """Follows a pickle's instructions on a stack of plain values."""

    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, data: bytes) -> Any:
        """What the pickle describes."""
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise ValueError("its pickle has no end")

    def step(self, name: str, argument: Any) -> None:
        """One instruction."""
        stack = self.stack
        if name in PUSHES:
            stack.append(PUSHES[name]())
        elif name in LITERALS:
            stack.append(argument)
        elif name == "GLOBAL":
            stack.append(Name(argument))
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in TUPLES:
            self.push_tuple(len(stack) - TUPLES[name])
        elif name == "TUPLE":
            self.push_tuple(self.marks.pop())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("SETITEM", "SETITEMS"):
            start = len(stack) - 2 if name == "SETITEM" else self.marks.pop()
            pairs = self.cut(start)
            stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))
        elif name == "BINPERSID":
            stack.append(tuple(stack.pop()))
        elif name == "BUILD":  # attributes of the dictionary: versions of modules
            stack.pop()
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            text = function.text if isinstance(function, Name) else repr(function)
            if text not in CALLS:
                raise ValueError(f"it asks to call {text!r}")
            stack.append(CALLS[text](*arguments))
        elif name != "PROTO":
            raise ValueError(f"its pickle has the instruction {name}")

    def push_tuple(self, start: int) -> None:
        """Makes one value of all from `start` on."""
        self.stack.append(tuple(self.cut(start)))

    def cut(self, start: int) -> list[Any]:
        """Takes all values from `start` on off the stack."""
        if not 0 <= start <= len(self.stack):
            raise ValueError("its pickle takes more than it has")
        values = self.stack[start:]
        del self.stack[start:]
        return values
