"""Packages of Core ML programs: run by Core ML on a Mac, or by our interpreter anywhere.

Both take static shapes, so what is missing to a whole block of positions or pictures is padded.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.backends.coreml_decoder import CoreMLDecoder, program_name
from vlrt_runtime.backends.options import BackendOptions
from vlrt_runtime.errors import DeviceError, InputError, PackageError
from vlrt_runtime.manifest import CoreMLSpec
from vlrt_runtime.mil.program import MilProgram
from vlrt_runtime.mil.steps import Function
from vlrt_runtime.mil.types import Array
from vlrt_runtime.package import Package

__all__ = ["DEVICES", "CoreMLBackend", "Program", "backend"]

DEVICES = ("coreml", "mil-interpreter")
UNITS = {"gpu": "cpu-and-gpu", "ane": "cpu-and-ne"}  # by the profile of the package


class Program(Protocol):
    """A saved program that runs: by our interpreter, or by Core ML."""

    functions: Mapping[str, Function]

    def make_state(self, function: str | None = None) -> Any:
        """The states of a function, zeros."""
        ...

    def copy_state(self, state: Any) -> Any:
        """Another state of the same content."""
        ...

    def predict(
        self, inputs: Mapping[str, Array], *, function: str | None = None, state: Any = None
    ) -> dict[str, Array]:
        """Runs a function on arrays of its declared shapes."""
        ...


def backend(package: Package, device: str, threads: int, options: BackendOptions) -> CoreMLBackend:
    """See `vlrt_runtime.backends`; auto is Core ML on a Mac, and the interpreter elsewhere.

    Raises:
        InputError: a package of Core ML programs does not run on that device.
        DeviceError: Core ML is asked for where there is none.
        PackageError: the manifest does not say how the programs are called.
    """
    mac = sys.platform == "darwin"
    if device == "auto":
        device = "coreml" if mac else "mil-interpreter"
        if not mac:
            warnings.warn(
                "Core ML runs on macOS only: here the package is interpreted, exactly and slowly",
                stacklevel=2,
            )
    if device not in DEVICES:
        raise InputError(
            f"device {device!r}: a package of Core ML programs takes one of auto, "
            f"{', '.join(DEVICES)}; export it with --target onnx for others"
        )
    if package.manifest.coreml is None:
        raise PackageError(f"{package.folder}: no 'coreml' in its manifest; export it again")
    if device == "mil-interpreter":
        return CoreMLBackend(package, device, partial(Interpreted, mode=options.mil_precision))
    if not mac:
        raise DeviceError(
            "device 'coreml': Core ML runs on macOS only; use --device mil-interpreter here"
        )
    from vlrt_runtime.coreml import open_program

    units = options.compute_units or UNITS.get(package.manifest.coreml.profile, "all")
    return CoreMLBackend(package, device, partial(open_program, units=units))


class Interpreted:
    """A program that our interpreter runs, see `Program`."""

    def __init__(self, path: Path, *, mode: str) -> None:
        self._program, self._mode = MilProgram.open(path), mode
        self.functions = self._program.functions

    def make_state(self, function: str | None = None) -> dict[str, Array]:
        """The states of a function, zeros."""
        return self._program.make_state(function)

    def copy_state(self, state: dict[str, Array]) -> dict[str, Array]:
        """Another state of the same content."""
        return {name: array.copy() for name, array in state.items()}

    def predict(
        self, inputs: Mapping[str, Array], *, function: str | None = None, state: Any = None
    ) -> dict[str, Array]:
        """Runs a function on arrays of its declared shapes."""
        return self._program.predict(inputs, function=function, state=state, mode=self._mode)


class CoreMLBackend:
    """See `vlrt_runtime.backends.Backend`.

    Args:
        package: to run.
        device: its name, for people.
        open_program: opens one of its programs.
    """

    def __init__(
        self, package: Package, device: str, open_program: Callable[[Path], Program]
    ) -> None:
        self.device = device
        self._package, self._open = package, open_program
        self._programs: dict[str, Program] = {}
        self._lock = threading.Lock()

    @property
    def spec(self) -> CoreMLSpec:
        """How the programs are called."""
        spec = self._package.manifest.coreml
        assert spec is not None  # `backend` has looked
        return spec

    @property
    def loaded(self) -> bool:
        """A program is open."""
        return bool(self._programs)

    def load(self) -> None:
        """Opens every program now."""
        files = [self._package.graph(name).name for name in ("vision_encoder", "projector")]
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._program, [*files, *self.spec.decoder]))

    def graph(self, name: str) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """A stateless graph of the package."""
        outputs = [spec.name for spec in self._package.manifest.graphs[name].outputs]
        program = self._program(self._package.graph(name).name)
        return partial(_run, program, outputs, f"{self._package.folder}: {name}")

    def decoder(self, static: Mapping[str, NDArray[Any]]) -> CoreMLDecoder:
        """An empty sequence."""
        programs = [self._program(file) for file in self.spec.decoder]
        specs = self._package.manifest.graphs["decoder"].inputs
        return CoreMLDecoder(programs, self.spec, specs, static)

    def release(self, name: str) -> None:
        """Lets a graph's programs go; calls that are under way keep them until they end."""
        files = [self._package.manifest.graphs[name].file]
        for file in self.spec.decoder if name == "decoder" else files:
            self._programs.pop(file, None)

    def _program(self, file: str) -> Program:
        found = self._programs.get(file)
        if found is None:
            opened = self._open(self._package.path(file))
            with self._lock:
                found = self._programs.setdefault(file, opened)
        return found


def _run(
    program: Program, outputs: list[str], where: str, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Runs the function that was exported for inputs of these sizes."""
    given = {program_name(name): array for name, array in inputs.items()}
    for name, function in program.functions.items():
        if all(
            spec.name in given and prod(size or 1 for size in spec.shape) == given[spec.name].size
            for spec in function.inputs
            if None not in spec.shape
        ):
            feed = {
                spec.name: given[spec.name].reshape([size or -1 for size in spec.shape])
                for spec in function.inputs
            }
            found = program.predict(feed, function=name)
            return {name: found[program_name(name)].astype(np.float32) for name in outputs}
    name = next(iter(given))
    sizes = [
        "x".join(map(str, spec.shape))
        for function in program.functions.values()
        for spec in function.inputs
        if spec.name == name
    ]
    shape = "x".join(map(str, given[name].shape))
    raise InputError(f"{where}: exported for {name} of {', '.join(sizes)}, got {shape}")
