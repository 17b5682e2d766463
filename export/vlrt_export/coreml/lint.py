"""What is known to fail, as rules over finished functions: nobody here can ask Apple's compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from vlrt_export.coreml.errors import LintError
from vlrt_export.coreml.tools import Function, Var, types

__all__ = ["RULES", "Finding", "Rule", "findings", "lint"]

LARGEST_AXIS = 16384
LARGEST_PROGRAM = 1_000_000_000
LARGEST_TABLE = 1 << 26
LARGEST_SCORES = 1 << 28
WEIGHTS = 1 << 16
MULTIPLE = 32
GUIDE = "https://github.com/apple/coreai-models (neural_engine_rules.md)"
ISSUES = "https://github.com/apple/coremltools/issues"
ANE, BOTH = ("ane",), ("gpu", "ane")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Something that fails.

    Attributes:
        id: its name.
        refuses: an error; otherwise a warning.
        profiles: it fails for.
        reason: what happens.
        source: who says so.
        check: names what breaks it.
    """

    id: str
    refuses: bool
    profiles: tuple[str, ...]
    reason: str
    source: str
    check: Callable[[Function], Iterable[str]]


@dataclass(frozen=True)
class Finding:
    """A function that breaks a rule, and where."""

    rule: Rule
    where: str


def _values(function: Function) -> Iterator[Var]:
    yield from function.inputs.values()
    for op in function.operations:
        yield from op.outputs


def _tensors(function: Function) -> Iterator[tuple[Var, tuple[Any, ...]]]:
    for var in _values(function):
        shape = getattr(var, "shape", None)
        if shape is not None:
            yield var, tuple(shape)


def _named(function: Function, *kinds: str) -> Iterator[Any]:
    return (op for op in function.operations if op.op_type in kinds)


def _states(function: Function) -> list[Var]:
    return [var for var in function.inputs.values() if types.is_state(var._sym_type)]


def _constants(function: Function) -> Iterator[tuple[Any, np.ndarray]]:
    for op in _named(function, "const"):
        value = op.outputs[0].val
        if isinstance(value, (np.ndarray, np.generic)):
            yield op, np.asarray(value)


def _rank(function: Function) -> Iterator[str]:
    return (f"{v.name} {list(s)}" for v, s in _tensors(function) if len(s) > 5)


def _axis(function: Function) -> Iterator[str]:
    for var, shape in _tensors(function):
        constant = var.op is not None and var.op.op_type == "const"
        if not constant and any(isinstance(n, int) and n > LARGEST_AXIS for n in shape):
            yield f"{var.name} {list(shape)}"


def _free(function: Function) -> Iterator[str]:
    for var, shape in _tensors(function):
        if not all(isinstance(size, (int, np.integer)) for size in shape):
            yield f"{var.name} {list(shape)}"


def _state_count(function: Function) -> Iterator[str]:
    states = _states(function)
    if len(states) > 1:
        yield ", ".join(var.name for var in states)


def _state_rank(function: Function) -> Iterator[str]:
    return (f"{v.name} {list(v.shape)}" for v in _states(function) if len(v.shape) != 4)


def _state_axes(function: Function) -> Iterator[str]:
    for var in _states(function):
        if any(size % MULTIPLE for size in var.shape[-2:]):
            yield f"{var.name} {list(var.shape)}"


def _size(function: Function) -> Iterator[str]:
    total = sum(_bytes(op.outputs[0], value) for op, value in _constants(function))
    if total > LARGEST_PROGRAM:
        yield f"{total / 1e9:.1f} GB of weights"


def _bytes(var: Var, value: np.ndarray) -> int:
    return value.nbytes // (2 if var.dtype in (types.int4, types.uint4) else 1)


def _blocks(function: Function) -> Iterator[str]:
    for op in _named(function, "constexpr_blockwise_shift_scale"):
        if prod(op.scale.shape[1:]) != 1:
            yield op.name


def _infinite(function: Function) -> Iterator[str]:
    for op, value in _constants(function):
        # Larger ones are weights, which were looked at when they were read.
        if value.dtype.kind == "f" and value.size <= WEIGHTS and not np.isfinite(value).all():
            yield op.name


def _wide(function: Function) -> Iterator[str]:
    return (v.name for v, _ in _tensors(function) if v.dtype in (types.fp32, types.fp64))


def _fused(function: Function) -> Iterator[str]:
    return (op.name for op in _named(function, "scaled_dot_product_attention"))


def _gathered(function: Function) -> Iterator[str]:
    return (op.name for op in _named(function, "gather_nd", "scatter_nd", "non_zero"))


def _table(function: Function) -> Iterator[str]:
    for op in _named(function, "gather"):
        if prod(op.x.shape) > LARGEST_TABLE:
            yield f"{op.name} {list(op.x.shape)}"


def _no_epsilon(function: Function) -> Iterator[str]:
    for op in _named(function, "layer_norm", "rsqrt"):
        if op.epsilon is not None and op.epsilon.val is not None and op.epsilon.val == 0:
            yield op.name


def _squares(function: Function) -> Iterator[str]:
    for op in _named(function, "mul"):
        sums = [child for child in op.outputs[0].child_ops if child.op_type.startswith("reduce_")]
        if op.x is op.y and op.outputs[0].dtype == types.fp16 and sums:
            yield op.name


def _scores(function: Function) -> Iterator[str]:
    for op in _named(function, "softmax"):
        if prod(op.outputs[0].shape) > LARGEST_SCORES:
            yield f"{op.name} {list(op.outputs[0].shape)}"


def _rule(
    name: str,
    check: Callable[[Function], Iterable[str]],
    profiles: tuple[str, ...],
    reason: str,
    source: str,
    *,
    refuses: bool = True,
) -> Rule:
    return Rule(
        id=name, refuses=refuses, profiles=profiles, reason=reason, source=source, check=check
    )


RULES = (
    _rule("rank", _rank, BOTH, "Core ML has at most 5 axes", f"{ISSUES}/1861"),
    _rule("axis-length", _axis, ANE, f"no axis may be beyond {LARGEST_AXIS}", GUIDE),
    _rule("free-size", _free, ANE, "sizes must be fixed, or all runs on the CPU", f"{ISSUES}/2600"),
    _rule("state-count", _state_count, ANE, "two states fail when run", GUIDE),
    _rule("state-rank", _state_rank, ANE, "states must have 4 axes", GUIDE),
    _rule(
        "state-axes",
        _state_axes,
        ANE,
        f"a state's last two axes should be multiples of {MULTIPLE}",
        f"{ISSUES}/2631",
        refuses=False,
    ),
    _rule(
        "program-size",
        _size,
        ANE,
        f"programs above {LARGEST_PROGRAM / 1e9:g} GB may silently run on the GPU",
        "https://github.com/john-rocky/CoreML-LLM (docs/DECODE_STATE_LAYOUTS.md)",
        refuses=False,
    ),
    _rule("blocks", _blocks, ANE, "blocks of weights give wrong numbers", f"{ISSUES}/2510"),
    _rule("infinite", _infinite, BOTH, "infinities become not-a-number; mask with -1e4", GUIDE),
    _rule("float32", _wide, ANE, "the Neural Engine has float16 alone", GUIDE),
    _rule(
        "fused-attention",
        _fused,
        BOTH,
        "the fused operator gives wrong numbers or does not compile on some systems",
        f"{ISSUES}/2650",
        refuses=False,
    ),
    _rule("gather-nd", _gathered, ANE, "gave zeros on the Neural Engine", GUIDE),
    _rule("table", _table, ANE, "large tables are not looked up there", GUIDE, refuses=False),
    _rule("epsilon", _no_epsilon, BOTH, "an epsilon that is zero divides by zero", GUIDE),
    _rule("squares", _squares, BOTH, "squares beyond 255 overflow float16", GUIDE, refuses=False),
    _rule(
        "scores",
        _scores,
        BOTH,
        f"more than {LARGEST_SCORES >> 20} M attention scores at a time need much memory",
        GUIDE,
        refuses=False,
    ),
)


def findings(functions: Mapping[str, Function], profile: str) -> list[Finding]:
    """All that is broken, in the order of the rules."""
    return [
        Finding(rule, f"{name}: {where}")
        for rule in RULES
        if profile in rule.profiles
        for name, function in functions.items()
        for where in rule.check(function)
    ]


def lint(functions: Mapping[str, Function], program: str, profile: str) -> list[str]:
    """One line for each rule that warns.

    Raises:
        LintError: a rule refuses the program.
    """
    lines: list[str] = []
    found = findings(functions, profile)
    for rule in dict.fromkeys(finding.rule for finding in found):
        places = [finding.where for finding in found if finding.rule is rule]
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        line = f"{program}: {rule.id}: {places[0]}{more}: {rule.reason} ({rule.source})"
        if rule.refuses:
            raise LintError(line)
        lines.append(line)
    return lines
