"""`MilProgram`: a saved `.mlpackage`, opened and run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlrt_runtime.errors import InputError, PackageError
from vlrt_runtime.mil.constants import Constants
from vlrt_runtime.mil.folder import Folder
from vlrt_runtime.mil.run import Observer, rounded, run
from vlrt_runtime.mil.steps import Function, prepare
from vlrt_runtime.mil.types import FLOATS, NUMPY, Array, TensorSpec, Type

__all__ = ["MODES", "MilProgram", "State"]

MODES = ("fp32", "declared")
DEFAULT_FUNCTION = "main"
State = dict[str, Array]


class MilProgram:
    """A program and its weights, which stay memory-mapped. Safe to use from several threads.

    Attributes:
        path: the `.mlpackage` folder.
        functions: by name.
        default: the function that runs where none is named.
    """

    def __init__(self, path: Path, functions: Mapping[str, Function], default: str) -> None:
        self.path, self.functions, self.default = path, functions, default
        self._constants = Constants()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> MilProgram:
        """Reads a package and checks every function of it.

        Raises:
            PackageNotFoundError: there is no such folder.
            PackageError: it is damaged, unsafe, or uses what this version does not know.
        """
        folder = Folder(Path(path))
        model = folder.model()
        messages: dict[str, Any] = model.get("program", {}).get("functions", {})
        if not messages:
            raise PackageError(f"{folder.program}: no ML program; export the package again")
        functions = {
            name: prepare(message, folder, f"{folder.path}: {name}")
            for name, message in sorted(messages.items())  # the file keeps no order
        }
        default = model.get("description", {}).get("default_function") or DEFAULT_FUNCTION
        return cls(folder.path, functions, default if default in functions else min(functions))

    def make_state(self, function: str | None = None) -> State:
        """The states of a function, filled with zeros; floats are float32 in every mode.

        Functions that name the same states share what is made for one of them.
        """
        return {
            spec.name: np.zeros(_sizes(spec, self.path), _held(spec.dtype))
            for spec in self._function(function).states
        }

    def predict(
        self,
        inputs: Mapping[str, Any],
        *,
        function: str | None = None,
        state: State | None = None,
        mode: str = "fp32",
        observe: Observer | None = None,
    ) -> dict[str, Array]:
        """Runs a function.

        Args:
            inputs: arrays by name.
            function: its name; the package's default where not given.
            state: of `make_state`; it is changed.
            mode: fp32 keeps every float in float32; declared rounds each result to the type that
                the package declares for it, so that float16's limits show.
            observe: is told of each operation's result: its kind, name and value.

        Returns:
            Outputs by name; floats are float32, or of their declared type in the declared mode.

        Raises:
            InputError: inputs, states or options do not fit the function.
            PackageError: the program cannot run: an operation got what it cannot take, or gave what
                is not declared.
        """
        if mode not in MODES:
            raise InputError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
        chosen, declared = self._function(function), mode == "declared"
        where = f"{self.path}: {function or self.default}"
        given = {
            spec.name: _input(spec, inputs, declared, f"{where}: input {spec.name!r}")
            for spec in chosen.inputs
        }
        held = {} if state is None else state
        for spec in chosen.states:
            _check_state(spec, held, f"{where}: state {spec.name!r}")
        found = run(
            chosen,
            given,
            {spec.name: held[spec.name] for spec in chosen.states},
            self._constants,
            declared=declared,
            where=where,
            observe=observe,
        )
        return {
            # A copy: a result may be an input's memory, or that of a constant which is kept.
            spec.name: found[spec.name].astype(NUMPY[spec.dtype] if declared else _held(spec.dtype))
            for spec in chosen.outputs
        }

    def _function(self, name: str | None) -> Function:
        chosen = self.default if name is None else name
        if chosen not in self.functions:
            known = ", ".join(self.functions)
            raise InputError(f"{self.path}: no function {chosen!r}, only {known}")
        return self.functions[chosen]


def _held(dtype: str) -> Any:
    return np.dtype(np.float32) if dtype in FLOATS else NUMPY[dtype]


def _sizes(spec: TensorSpec, path: Path) -> list[int]:
    sizes = [size for size in spec.shape if size is not None]
    if len(sizes) != len(spec.shape):
        raise PackageError(f"{path}: state {spec.name!r}: its shape {spec.shape} is not fixed")
    return sizes


def _input(spec: TensorSpec, inputs: Mapping[str, Any], declared: bool, where: str) -> Array:
    if spec.name not in inputs:
        raise InputError(f"{where}: missing, only {', '.join(inputs) or 'nothing'} given")
    type_ = Type(spec.dtype, spec.shape)
    array = np.asarray(inputs[spec.name])
    if not type_.admits(array.shape):
        raise InputError(f"{where}: expected {type_}, got shape {list(array.shape)}")
    if not np.can_cast(array.dtype, _held(spec.dtype), "same_kind"):
        raise InputError(f"{where}: expected {type_}, got {array.dtype}")
    array = array.astype(_held(spec.dtype), copy=False)
    return rounded(array, type_) if declared else array


def _check_state(spec: TensorSpec, state: Mapping[str, Array], where: str) -> None:
    held, type_ = state.get(spec.name), Type(spec.dtype, spec.shape)
    if held is None:
        raise InputError(f"{where}: missing; pass state=program.make_state()")
    if not type_.admits(held.shape) or held.dtype != _held(spec.dtype):
        raise InputError(
            f"{where}: expected {type_}, held as {_held(spec.dtype)}; "
            f"got {held.dtype} {list(held.shape)}"
        )
