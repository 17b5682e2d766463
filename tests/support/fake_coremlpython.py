"""coremltools' native half, which its wheels for macOS alone have; it answers by the interpreter.

All that is Python of coremltools is the real one. Methods are those that it calls; as Apple's
coremlpython/CoreMLPython.mm has them, floats come back in float32 whatever a program declares, and
what Core ML refuses is a RuntimeError.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from vlrt_runtime.mil.program import MilProgram

__all__ = ["FakeNative"]

UNITS = {"CPU_ONLY": 0, "CPU_AND_GPU": 1, "ALL": 2, "CPU_AND_NE": 3}  # MLComputeUnits


class State:
    def __init__(self, held: dict[str, Any]) -> None:
        self.held = held

    def read_state(self, name: str) -> Any:
        return self.held[name].astype(np.float32)

    def write_state(self, name: str, value: Any) -> None:
        self.held[name][...] = value


class FakeNative:
    """The module `coremltools.libcoremlpython`; `calls` and `refuses` are those of FakeCoreML."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.refuses: str | None = None
        fake = self

        def outcome(selector: str, result: Any) -> Any:
            if fake.refuses == selector:
                raise RuntimeError("no such thing here")
            return result

        class Proxy:
            def __init__(
                self, path: str, units: str, function: str, hints: dict[str, str], asset: Any
            ) -> None:
                assert path.endswith(".mlmodelc")
                assert (hints, asset) == ({}, None)
                fake.calls.append(("load", function or None, UNITS[units]))
                outcome("load", None)
                self.program = MilProgram.open(path)
                self.function = function or self.program.default

            @staticmethod
            def compileModel(path: str) -> str:
                fake.calls.append(("compile", Path(path).name))
                made = Path(tempfile.mkdtemp()) / "made.mlmodelc"
                shutil.copytree(path, made)
                return outcome("compile", str(made))

            def newState(self) -> State:
                fake.calls.append(("newState", self.function))
                return State(self.program.make_state(self.function))

            def predict(self, data: dict[str, Any], state: State | None) -> dict[str, Any]:
                fake.calls.append(("predict", self.function))
                declared = self.program.functions[self.function]
                assert {spec.name: spec.shape for spec in declared.inputs} == {
                    name: array.shape for name, array in data.items()
                }
                assert (state is not None) == bool(declared.states)
                held = {} if state is None else state.held
                found = self.program.predict(
                    data, function=self.function, state=held, mode="declared"
                )
                widened = {
                    name: array.astype(np.float32) if array.dtype == np.float16 else array
                    for name, array in found.items()
                }
                return outcome("predict", widened)

        self._MLModelProxy = Proxy
