"""Core ML through coremltools, where it is installed anyway. Not yet run on Apple hardware.

Sources: coremltools 9.0's `models.CompiledMLModel`, `models.model.MLState` and
`models.utils.compile_model`. What Core ML refuses comes as a RuntimeError.
"""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vlrt_runtime.coreml.compiled import compiled
from vlrt_runtime.coreml.program import CoreMLProgram
from vlrt_runtime.mil.types import Array

__all__ = ["ToolsProgram"]

UNITS = {"cpu": "CPU_ONLY", "cpu-and-gpu": "CPU_AND_GPU", "all": "ALL", "cpu-and-ne": "CPU_AND_NE"}


class ToolsProgram(CoreMLProgram):
    """See `CoreMLProgram`."""

    def __init__(self, path: Path, units: str) -> None:
        super().__init__(path, units)
        self._tools: Any = import_module("coremltools")

    def _new_state(self, model: Any) -> Any:
        return model.make_state()

    def _copy(self, name: str, state: Any, copy: Any) -> None:
        copy.write_state(name, state.read_state(name))

    def _run(self, model: Any, name: str, given: dict[str, Array], state: Any) -> dict[str, Array]:
        try:
            found = model.predict(given, state)
        except RuntimeError as error:
            raise self._refused(f"failed to run {name!r}", error) from error
        return {spec.name: np.asarray(found[spec.name]) for spec in self.functions[name].outputs}

    def _load(self, function: str | None) -> Any:
        path = compiled(self._path, self._compile)
        units = getattr(self._tools.ComputeUnit, UNITS[self._units])
        try:
            return self._tools.models.CompiledMLModel(str(path), units, function)
        except RuntimeError as error:
            raise self._refused(f"does not load {function or 'it'!r}", error) from error

    def _compile(self, path: Path, folder: Path) -> Path:
        try:
            made = Path(self._tools.models.utils.compile_model(str(path)))
        except RuntimeError as error:
            raise self._refused("does not compile it", error) from error
        copy = folder / made.name  # the one that was made goes away with the process
        shutil.copytree(made, copy)
        return copy
