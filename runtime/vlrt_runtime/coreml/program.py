"""What programs run by Core ML have in common, whichever library calls it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlrt_runtime.coreml.compiled import interfaces
from vlrt_runtime.errors import PackageError
from vlrt_runtime.mil.types import NUMPY, Array

__all__ = ["CoreMLProgram"]


class CoreMLProgram(ABC):
    """See `vlrt_runtime.backends.coreml.Program`: one model a function, states shared among them.

    Args:
        path: the `.mlpackage`.
        units: that may compute: cpu-and-gpu, cpu-and-ne, all or cpu.

    Raises:
        PackageError: it is damaged, or Core ML does not accept it.
    """

    def __init__(self, path: Path, units: str) -> None:
        self.functions = interfaces(path)
        self._path, self._units = path, units
        self._models: dict[str, Any] = {}
        self._lock = threading.Lock()

    def make_state(self, function: str | None = None) -> Any:
        """An `MLState`, zeros; None for a program without states."""
        name = self._name(function)
        return self._new_state(self._model(name)) if self.functions[name].states else None

    def copy_state(self, state: Any) -> Any:
        """Another state of the same content, by way of our memory."""
        name = next((name for name, f in self.functions.items() if f.states), None)
        if name is None:
            return None
        copy = self.make_state(name)
        for spec in self.functions[name].states:
            self._copy(spec.name, state, copy)
        return copy

    def predict(
        self, inputs: Mapping[str, Array], *, function: str | None = None, state: Any = None
    ) -> dict[str, Array]:
        """Runs a function on arrays of its declared shapes."""
        name = self._name(function)
        declared = self.functions[name]
        # Core ML may read from these arrays: they outlive the call.
        given = {
            spec.name: np.ascontiguousarray(inputs[spec.name], NUMPY[spec.dtype])
            for spec in declared.inputs
        }
        held = state if declared.states else None
        return self._run(self._model(name), name, given, held)

    def _name(self, function: str | None) -> str:
        return function or next(iter(self.functions))

    def _model(self, function: str) -> Any:
        with self._lock:
            model = self._models.get(function)
            if model is None:
                # A program of one function may have none by name.
                chosen = function if len(self.functions) > 1 else None
                model = self._models[function] = self._load(chosen)
            return model

    def _refused(self, what: str, reason: object) -> PackageError:
        return PackageError(
            f"{self._path}: Core ML {what}: {reason}; try --compute-units cpu, and "
            "--device mil-interpreter to tell the package from the device"
        )

    @abstractmethod
    def _load(self, function: str | None) -> Any:
        """The model of a function, or of the only one."""

    @abstractmethod
    def _new_state(self, model: Any) -> Any: ...

    @abstractmethod
    def _copy(self, name: str, state: Any, copy: Any) -> None:
        """One state's content from one holder of states to another."""

    @abstractmethod
    def _run(self, model: Any, name: str, given: dict[str, Array], state: Any) -> dict[str, Array]:
        """Outputs of a model, by name."""
