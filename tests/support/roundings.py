"""How far a program's results may be from exact ones where it rounds to float16.

Arithmetic rounds each result once, by at most 2^-11 of itself and evenly below that: a deviation of
2^-11 / sqrt(3). The errors of n roundings, one behind the other, have no sign in common and add up
as a walk of n steps does, to sqrt(n) times that. The largest of a few hundred thousand numbers is
within five deviations.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from pathlib import Path

from vlrt_runtime.mil.program import MilProgram
from vlrt_runtime.mil.steps import Function

__all__ = ["float16_bound"]

DEVIATION = 2**-11 / sqrt(3)
# What moves numbers about, and gives those that it was given.
MOVES = {
    *("concat", "expand_dims", "gather", "pad", "reshape", "split", "squeeze", "tile", "transpose"),
    *("coreml_update_state", "read_state", "slice_by_index", "slice_by_size", "slice_update"),
}


def float16_bound(programs: Iterable[Path]) -> float:
    """The largest error behind programs that follow each other, relative to the largest result."""
    functions = [MilProgram.open(path).functions.values() for path in programs]
    return 5 * DEVIATION * sqrt(sum(max(map(_in_a_row, each)) for each in functions))


def _in_a_row(function: Function) -> int:
    """The longest chain of roundings that ends in a result."""
    length: dict[str, int] = {}
    for step in function.steps:
        before = max((length.get(name, 0) for name in step.names()), default=0)
        rounds = step.kind not in MOVES and not step.kind.startswith("constexpr")
        for name, type_ in step.outputs:
            length[name] = before + (rounds and type_.dtype == "fp16")
    return max(length.get(str(result), 0) for result in function.results.values())
