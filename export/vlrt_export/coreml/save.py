"""Writes functions as an `.mlpackage`; weights of one `weight_id` are there once."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path

from vlrt_export.coreml.tools import Function, Program, ct

__all__ = ["save"]


def save(functions: Mapping[str, Function], path: Path) -> None:
    """Writes one program. Its types are as built: no pass of coremltools runs over it."""
    program = Program()
    for name, function in functions.items():
        program.add_function(name, function)
    if list(functions) != ["main"]:
        program.default_function_name = next(iter(functions))
        program.export_as_multifunction = True
    program.skip_all_passes = True
    with contextlib.redirect_stderr(io.StringIO()):  # bars of passes that have nothing to do
        _convert(program, path)


def _convert(program: Program, path: Path) -> None:
    ct.convert(
        program,
        source="milinternal",
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        pass_pipeline=ct.PassPipeline.EMPTY,
        compute_precision=ct.precision.FLOAT32,  # casts nothing
        skip_model_load=True,
        package_dir=str(path),
    )
