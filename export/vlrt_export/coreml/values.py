"""What stands for a value of a graph while it is lowered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from vlrt_export.coreml.tools import Var

__all__ = ["Const", "Item", "Packed", "Value"]


@dataclass(frozen=True)
class Const:
    """Known before anything runs. `name` is the same in every function of a program."""

    array: NDArray[Any]
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """As the graph has it."""
        return self.array.shape


@dataclass(frozen=True)
class Packed:
    """A matrix [n, k] of integers with scales [n, blocks] and, maybe, zero points."""

    codes: Const
    scales: Const
    zeros: Const | None
    bits: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return self.codes.shape


@dataclass
class Value:
    """An activation.

    Attributes:
        parts: MIL's variables, one behind the other along the graph's last axis.
        shape: as the graph has it. Rows are in the order of that shape, whatever theirs is.
        channels: `shape` is [b, s, c], and the parts' are [b, c, 1, s].
        other: itself in one piece in the other layout, once somebody has asked for it.
    """

    parts: tuple[Var, ...]
    shape: tuple[int, ...]
    channels: bool = False
    other: Var | None = field(default=None, repr=False)

    @property
    def dtype(self) -> Any:
        """MIL's type of its elements."""
        return self.parts[0].dtype


Item = Const | Packed | Value
