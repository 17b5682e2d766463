"""Runs prepared steps on arrays, and holds every result against its declared type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vlrt_runtime.errors import PackageError
from vlrt_runtime.halt import check_halt
from vlrt_runtime.mil.constants import Constant, Constants
from vlrt_runtime.mil.ops import RULES
from vlrt_runtime.mil.steps import READ, UPDATE, WRITE, Function, Reference, Step
from vlrt_runtime.mil.types import FLOATS, NUMPY, Array, Type

__all__ = ["Observer", "apply", "rounded", "run"]

Observer = Callable[[str, str, Array], None]  # is told of each result: operation, name, value


def run(
    function: Function,
    inputs: Mapping[str, Array],
    state: Mapping[str, Array],
    constants: Constants,
    *,
    declared: bool,
    where: str,
    observe: Observer | None = None,
) -> dict[str, Array]:
    """Runs a function on inputs and states that are of its types, floats as float32."""
    values: dict[str, Any] = dict(inputs)

    def value(reference: Reference) -> Any:
        if isinstance(reference, Constant):
            return constants.get(reference, declared=declared)
        return values[reference]

    for step in function.steps:
        check_halt()
        here = f"{where}: {step}"
        if step.kind == READ:
            held = state[str(step.arguments["input"])]
            results = [held if step.in_place else held.copy()]
        elif step.kind == WRITE:
            _store(state[str(step.arguments["input"])], value(_one(step, "data", here)), here)
            results = []
        else:
            arguments = {
                k: [value(item) for item in v] if isinstance(v, list) else value(v)
                for k, v in step.arguments.items()
            }
            results = apply(step, arguments, here)
            if not step.in_place:
                results = [_own(result, state) for result in results]
                if declared:
                    results = [
                        rounded(result, type_)
                        for result, (_, type_) in zip(results, step.outputs, strict=True)
                    ]
        for (name, _), result in zip(step.outputs, results, strict=True):
            values[name] = result
            if observe is not None:
                observe(step.kind, name, result)
        for name in step.drops:
            values.pop(name, None)
    return {name: value(reference) for name, reference in function.results.items()}


def apply(step: Step, arguments: dict[str, Any], where: str) -> list[Array]:
    """What an operation gives for its arguments.

    Raises:
        PackageError: it cannot take them, or gives something else than is declared.
    """
    if step.kind == UPDATE:
        arguments["in_place"] = step.in_place
    try:
        with np.errstate(all="ignore"):  # infinities are results here, and reported as such
            found = RULES[step.kind](**arguments)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, MemoryError) as error:
        raise PackageError(f"{where}: {error}; export the package again") from error
    results: list[Any] = found if isinstance(found, list) else [found]  # pyright: ignore[reportUnknownVariableType]
    if len(results) != len(step.outputs):
        raise PackageError(f"{where}: expected {len(step.outputs)} results, got {len(results)}")
    return [
        _settled(np.asarray(result), type_, f"{where}: {name!r}")
        for result, (name, type_) in zip(results, step.outputs, strict=True)
    ]


def rounded(value: Array, type_: Type) -> Array:
    """A float32 value as its declared float16 would hold it."""
    if type_.dtype != "fp16":
        return value
    with np.errstate(over="ignore"):
        return value.astype(np.float16).astype(np.float32)


def _settled(result: Array, type_: Type, where: str) -> Array:
    if not type_.admits(result.shape):
        raise PackageError(f"{where}: expected {type_}, got shape {list(result.shape)}")
    wanted = NUMPY[type_.dtype].kind if type_.dtype in NUMPY else "?"
    if wanted != result.dtype.kind and {wanted, result.dtype.kind} != {"i", "u"}:
        raise PackageError(f"{where}: expected {type_}, got {result.dtype}")
    return result.astype(np.float32 if type_.dtype in FLOATS else NUMPY[type_.dtype], copy=False)


def _own(result: Array, state: Mapping[str, Array]) -> Array:
    """A result with memory of its own: what a state's memory says will change."""
    lent = any(np.may_share_memory(result, held) for held in state.values())
    return result.copy() if lent else result


def _store(held: Array, data: Array, where: str) -> None:
    if data.shape != held.shape or data.dtype != held.dtype:
        raise PackageError(
            f"{where}: expected {held.dtype} {list(held.shape)}, "
            f"got {data.dtype} {list(data.shape)}; export the package again"
        )
    if data is not held:
        np.copyto(held, data)


def _one(step: Step, parameter: str, where: str) -> Reference:
    found = step.arguments.get(parameter)
    if found is None or isinstance(found, list):
        raise PackageError(f"{where}: expected one {parameter!r}; export the package again")
    return found
