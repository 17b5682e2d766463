"""The operations of MIL that run, by name: one function each, of numpy arrays by parameter name.

Floats come as float32 whatever their declared type, other values in theirs. What a program gives is
checked by what calls these: here, an exception of numpy's is enough for a wrong argument.
"""

from __future__ import annotations

from vlrt_runtime.mil.ops import arrays, elementwise, indexing, linear, reduction, weights
from vlrt_runtime.mil.ops.rule import Rule

__all__ = ["RULES"]

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **reduction.RULES,
    **linear.RULES,
    **arrays.RULES,
    **indexing.RULES,
    **weights.RULES,
}
