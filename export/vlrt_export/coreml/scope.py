"""One MIL function in the making: what rules see of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vlrt_export.coreml.profiles import Profile
from vlrt_export.coreml.store import Store, narrowed
from vlrt_export.coreml.tools import Var, mb, types, uint4
from vlrt_export.coreml.values import Const, Item, Packed, Value

__all__ = ["Scope", "clean"]

NUMPY = {
    types.fp16: np.float16,
    types.fp32: np.float32,
    types.int32: np.int32,
    types.bool: np.bool_,
}


def clean(name: str) -> str:
    """A name as MIL has them."""
    return re.sub(r"\W", "_", name)


class Scope:
    """A function's values so far, and the conversions between their forms.

    Attributes:
        profile: what rules choose by.
        env: a graph's values by `id`.
        done: nodes, by `id`, that another one took in.
        inputs: the function's own inputs by name.
        state: the cache as the last node has left it.
    """

    def __init__(self, profile: Profile, store: Store, inputs: dict[str, Var]) -> None:
        self.profile, self.store, self.inputs = profile, store, inputs
        self.env: dict[int, Item] = {}
        self.done: set[int] = set()
        self.state: Var | None = None
        self._made: dict[Any, Var] = {}
        self._row = 0

    def once(self, key: Any, make: Callable[[], Var]) -> Var:
        """What `make` gives, the first time it is asked for under that key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def floating(self, dtype: Any) -> Any:
        """MIL's type for a floating dtype of a graph."""
        return types.fp32 if self.profile.wide and dtype == ir.DataType.FLOAT else types.fp16

    def scalar(self, number: float, like: Var) -> Any:
        """A number in the type of a variable."""
        return narrowed(np.array(number), NUMPY[like.dtype])[()]

    def constant(
        self,
        const: Const,
        dtype: Any = None,
        *,
        change: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        tag: str = "",
    ) -> Var:
        """A constant in MIL's type `dtype`, after `change`, which `tag` names."""
        wanted = self._wanted(const.array.dtype) if dtype is None else NUMPY[dtype]
        key = f"{const.name}{tag}:{np.dtype(wanted).name}"

        def make() -> NDArray[Any]:
            array = const.array if change is None else change(const.array)
            return narrowed(array, wanted)

        def emit() -> Var:
            made = mb.const(val=self.store.get(key, make), name=clean(f"{const.name}{tag}"))
            made.op.weight_id = key
            return made

        return self.once(key, emit)

    def _wanted(self, dtype: Any) -> Any:
        if dtype == np.float32:
            return np.float32 if self.profile.wide else np.float16
        return np.int32 if dtype.kind in "iu" else dtype

    def packed(self, matrix: Packed, start: int, stop: int) -> Var:
        """Rows of a matrix of integers, as the profile multiplies with them."""
        kinds = {4: uint4, 8: np.dtype(np.uint8 if matrix.zeros is not None else np.int8)}
        kind = kinds[matrix.bits]
        name = f"{matrix.codes.name}[{start}:{stop}]"

        def part(const: Const, what: str, dtype: Any) -> Any:
            def make() -> NDArray[Any]:
                array = const.array[start:stop].reshape(stop - start, -1)
                return array[:, :, None, None] if self.profile.channels else array

            return self.store.get(f"{name}.{what}", make).view(dtype)

        def emit() -> Var:
            given = {
                "data": part(matrix.codes, "data", kind),
                "scale": part(matrix.scales, "scale", matrix.scales.array.dtype),
            }
            if matrix.zeros is not None:
                given["offset"] = part(matrix.zeros, "offset", kind)
            made = mb.constexpr_blockwise_shift_scale(**given, name=clean(name))
            for what in given:
                getattr(made.op, what).op.weight_id = f"{name}.{what}"
            return made

        return self.once(name, emit)

    def rows(self, item: Item, dtype: Any = None) -> Var:
        """In one piece, in the graph's own shape."""
        if isinstance(item, Const):
            return self.constant(item, dtype)
        assert isinstance(item, Value), item
        if item.channels:
            if item.other is None:
                flat = mb.squeeze(x=self.joined(item), axes=[2])
                item.other = mb.transpose(x=flat, perm=[0, 2, 1])
            return item.other
        made = self.joined(item)
        return made if made.shape == item.shape else mb.reshape(x=made, shape=list(item.shape))

    def channels(self, item: Item, dtype: Any = None) -> Var:
        """In one piece, [b, c, 1, s]; of a graph's shape that is or broadcasts to [b, s, c]."""
        if isinstance(item, Const):
            return self.constant(item, dtype, change=_to_channels, tag=".channels")
        assert isinstance(item, Value), item
        if item.channels:
            return self.joined(item)
        if item.other is None:
            shape = (1,) * (3 - len(item.shape)) + item.shape
            x = self.rows(Value(item.parts, shape))
            item.other = mb.expand_dims(x=mb.transpose(x=x, perm=[0, 2, 1]), axes=[2])
        return item.other

    def own(self, value: Item) -> Var:
        """In one piece, in the layout it has."""
        if isinstance(value, Value) and value.channels:
            return self.joined(value)
        return self.rows(value)

    def next_row(self) -> int:
        """The state's next row: keys and values of each layer take turns."""
        self._row += 1
        return self._row - 1

    def joined(self, value: Value) -> Var:
        """In one piece, in its own layout."""
        first, *others = value.parts
        if others:
            first = mb.concat(values=[first, *others], axis=1 if value.channels else -1)
            value.parts = (first,)
        return first

    def value(self, x: Var, *, channels: bool = False) -> Value:
        """A variable as a value."""
        if not channels:
            return Value((x,), tuple(x.shape))
        b, c, _, s = x.shape
        return Value((x,), (b, s, c), channels=True)

    def same(self, items: Sequence[Item]) -> tuple[list[Var], bool]:
        """Operands in one layout, channels where one has it and all can; whether they have."""
        channels = any(isinstance(item, Value) and item.channels for item in items)
        channels = channels and all(len(item.shape) <= 3 for item in items)
        dtype = next(item.dtype for item in items if isinstance(item, Value))
        form = self.channels if channels else self.rows
        return [form(item, dtype) for item in items], channels

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        """The same elements in another shape: nothing is done until somebody needs it."""
        assert prod(shape) == prod(value.shape), (value.shape, shape)
        x = self.rows(value) if value.channels else self.joined(value)
        return Value((x,), tuple(shape))


def _to_channels(array: NDArray[Any]) -> NDArray[Any]:
    shape = (1,) * (3 - array.ndim) + array.shape
    return np.ascontiguousarray(array.reshape(shape).transpose(0, 2, 1))[:, :, None]
