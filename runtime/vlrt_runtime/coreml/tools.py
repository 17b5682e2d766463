"""Core ML through coremltools, where it is installed anyway. Not yet run on Apple hardware."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vlrt_runtime.coreml.compiled import compiled, interfaces
from vlrt_runtime.errors import PackageError
from vlrt_runtime.mil.types import NUMPY, Array

__all__ = ["ToolsProgram"]

UNITS = {"cpu": "CPU_ONLY", "cpu-and-gpu": "CPU_AND_GPU", "all": "ALL", "cpu-and-ne": "CPU_AND_NE"}


class ToolsProgram:
    """See `vlrt_runtime.backends.coreml.Program`, and `ObjCProgram` for what is raised."""

    def __init__(self, path: Path, units: str) -> None:
        self.functions = interfaces(path)
        self._path, self._units = path, units
        self._tools: Any = import_module("coremltools")
        self._models: dict[str, Any] = {}

    def make_state(self, function: str | None = None) -> Any:
        """An `MLState`, zeros; None for a program without states."""
        name = function or next(iter(self.functions))
        return self._model(name).make_state() if self.functions[name].states else None

    def copy_state(self, state: Any) -> Any:
        """Another state of the same content."""
        name = next((name for name, f in self.functions.items() if f.states), None)
        if name is None:
            return None
        copy = self.make_state(name)
        for spec in self.functions[name].states:
            copy.write_state(spec.name, state.read_state(spec.name))
        return copy

    def predict(
        self, inputs: Mapping[str, Array], *, function: str | None = None, state: Any = None
    ) -> dict[str, Array]:
        """Runs a function on arrays of its declared shapes."""
        name = function or next(iter(self.functions))
        declared = self.functions[name]
        feed = {
            spec.name: np.ascontiguousarray(inputs[spec.name], NUMPY[spec.dtype])
            for spec in declared.inputs
        }
        try:
            found = self._model(name).predict(feed, **({"state": state} if state else {}))
        except RuntimeError as error:
            raise PackageError(f"{self._path}: Core ML failed to run {name!r}: {error}") from error
        return {spec.name: np.asarray(found[spec.name]) for spec in declared.outputs}

    def _model(self, function: str) -> Any:
        if function not in self._models:
            several = len(self.functions) > 1
            self._models[function] = self._tools.models.CompiledMLModel(
                str(compiled(self._path, self._compile)),
                compute_units=getattr(self._tools.ComputeUnit, UNITS[self._units]),
                **({"function_name": function} if several else {}),
            )
        return self._models[function]

    def _compile(self, path: Path) -> Path:
        try:
            made = Path(self._tools.models.utils.compile_model(str(path)))
        except RuntimeError as error:
            raise PackageError(f"{path}: Core ML does not compile it: {error}") from error
        # It goes away with the process otherwise; the copy is moved into the cache.
        copy = Path(tempfile.mkdtemp()) / made.name
        shutil.copytree(made, copy)
        return copy
