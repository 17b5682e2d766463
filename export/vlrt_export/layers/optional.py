"""A part of a graph that is left out where a condition does not hold: neither read nor computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from vlrt_export.layers.base import Layer

__all__ = ["optional"]


def optional(op: Any, condition: Any, block: Layer, make: Callable[[Any], Any], x: Any) -> Any:
    """What `make` computes with the layers of `block` where `condition` holds, and else `x`.

    Args:
        op: the builder's operator namespace.
        condition: bool [].
        block: an attribute of the layer at work, called `block` there.
        make: takes the branch's operator namespace; its result is like `x`.
        x: what goes on without it.
    """
    # The builder names what a branch reads as if it were read here: say where it belongs.
    for name, parameter in block.named_parameters():
        parameter.name = f"block.{name}"
    scope = op.builder.graph.num_nodes()
    branches = [
        op.builder.subgraph(
            body, [], [ir.Value(name=f"{label}_{scope}", type=x.type, shape=x.shape)], name=label
        )
        for label, body in (("run", make), ("skip", lambda op: op.Identity(x)))
    ]
    out = op.If(condition, then_branch=branches[0], else_branch=branches[1])
    out.type, out.shape = x.type, x.shape
    return out
