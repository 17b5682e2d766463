"""Where chat templates run: jinja2's sandbox, with an end to time and to sizes.

The sandbox keeps a template from files and from Python; it may still count to a number of 30
digits, or double a text until memory is full. So every turn of a loop and every call looks at the
clock, and what multiplies or joins looks at sizes first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from jinja2 import Template, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

__all__ = ["MAX_TEXT", "Sandbox"]

MAX_TEXT = 1 << 24  # characters of a prompt, or entries of a list; far more than any context holds
MAX_BITS = 1 << 12  # of a whole number
SECONDS = 10.0  # that a template may take; they take milliseconds

_end: ContextVar[float] = ContextVar("_end", default=float("inf"))


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment whose templates come to an end; what does not is an OverflowError."""

    intercepted_binops = frozenset(("+", "*", "**"))

    def guarded(self, source: str) -> Template:
        """A template.

        Raises:
            TemplateSyntaxError: it cannot be parsed.
        """
        return self.from_string(_Guard().visit(self.parse(source)))

    def pieces(self, template: Template, variables: dict[str, Any]) -> Iterator[str]:
        """The text piece by piece.

        Raises:
            OverflowError: it takes too long, or becomes too long.
        """
        token, length = _end.set(time.monotonic() + SECONDS), 0
        try:
            for piece in template.generate(variables):
                length += len(piece)
                _check(length)
                yield piece
        finally:
            _end.reset(token)

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """What a loop goes through."""
        for item in items:
            _tick()
            yield item

    def joined(self, *parts: Any) -> str:
        """The texts of `a ~ b ~ c`, one after the other."""
        texts = [str(part) for part in parts]
        _check(sum(map(len, texts)))
        return "".join(texts)

    def call(self, context: Any, obj: Any, /, *args: Any, **options: Any) -> Any:
        """Calls of macros, methods and functions."""
        _tick()
        return super().call(context, obj, *args, **options)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """`a + b`, `a * b` and `a ** b`, if the result is of a size."""
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length()
            if bits + right.bit_length() > MAX_BITS:
                raise OverflowError(f"a number becomes longer than {MAX_BITS} bits")
        elif operator == "+":
            _check(_length(left) + _length(right))
        else:
            _check(_length(left) * _length(right))
        return super().call_binop(context, operator, left, right)


class _Guard(NodeTransformer):
    """Sends what loops go through, and what is joined, through the environment."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - jinja2's name
        self.generic_visit(node)
        node.iter = _call("counted", [node.iter], node)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("joined", node.nodes, node)


def _call(name: str, args: list[Any], at: nodes.Node) -> nodes.Call:
    method = nodes.EnvironmentAttribute(name, lineno=at.lineno)
    call = nodes.Call(method, args, [], None, None, lineno=at.lineno)
    if at.environment is not None:
        call.set_environment(at.environment)
    return call


def _length(value: Any) -> int:
    """Of a text or a list; a whole number is how often one is repeated."""
    if isinstance(value, int):
        return max(value, 0)
    return len(value) if hasattr(value, "__len__") else 1


def _check(length: int) -> None:
    if length > MAX_TEXT:
        raise OverflowError(f"they become more than {MAX_TEXT} characters")


def _tick() -> None:
    if time.monotonic() > _end.get():
        raise OverflowError(f"it takes more than {SECONDS:g} s")
