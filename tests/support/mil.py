"""ML programs built by coremltools' builder and saved, as what the interpreter is tested with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

logging.disable(logging.WARNING)  # coremltools warns of macOS libraries on every import
pytest.importorskip("coremltools", reason="needs vlrt[coreml]")

import coremltools as ct  # noqa: E402
from coremltools.converters.mil import mil  # noqa: E402
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402

logging.disable(logging.NOTSET)

__all__ = ["ct", "function", "mb", "save", "types"]


def function(specs: Mapping[str, Any], body: Callable[..., Any]) -> Any:
    """A function of the program: inputs by name, and what makes the outputs of them."""
    names = ", ".join(specs)
    scope: dict[str, Any] = {"body": body}
    # The builder reads the names of inputs from a signature.
    exec(f"def made({names}):\n    return body({names})", scope)
    return mb.function(input_specs=list(specs.values()), opset_version=ct.target.iOS18)(
        scope["made"]
    )


def save(functions: Mapping[str, Any], path: Path, *, inputs: Sequence[Any] | None = None) -> Path:
    """Saves a program as it was built, no pass run over it."""
    program = mil.Program()
    for name, made in functions.items():
        program.add_function(name, made)
    if list(functions) != ["main"]:
        program.default_function_name = next(iter(functions))
        program.export_as_multifunction = True
    program.skip_all_passes = True
    ct.convert(
        program,
        source="milinternal",
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,  # casts nothing: types are as built
        skip_model_load=True,
        package_dir=str(path),
        **({"inputs": list(inputs)} if inputs else {}),
    )
    return path
