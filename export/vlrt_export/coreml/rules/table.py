"""The table's entries: a function for each operator, and the attributes that it understands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

__all__ = ["Rule", "Table", "attribute", "axis_of", "sizes"]


@dataclass(frozen=True)
class Rule:
    """Takes (scope, node, inputs) and gives one item, or a list: one for each output."""

    lower: Callable[..., Any]
    attributes: frozenset[str]


class Table(dict[str, Rule]):
    """Rules by operator."""

    def rule(self, *operators: str, attributes: str = "") -> Callable[..., Any]:
        """Enters a function for operators; other attributes than these are refused."""

        def enter(lower: Callable[..., Any]) -> Callable[..., Any]:
            for operator in operators:
                self[operator] = Rule(lower, frozenset(attributes.split()))
            return lower

        return enter


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def axis_of(value: Any, axis: int) -> int:
    """An axis of the graph's as the variable of a value has it."""
    axis = axis % len(value.shape)
    return (0, 3, 1)[axis] if value.channels else axis


def sizes(const: Any) -> list[int]:
    """A constant input that holds whole numbers."""
    return [int(size) for size in const.array.reshape(-1)]
