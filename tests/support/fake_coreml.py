"""A recorded contract of pyobjc's CoreML, which answers by the interpreter.

It knows no more selectors than are written here, with the arguments that Apple documents.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from vlrt_runtime.mil.program import MilProgram

__all__ = ["FakeCoreML"]

DTYPES = {65552: np.float16, 65568: np.float32, 131104: np.int32}
NUMBERS = {np.dtype(dtype): number for number, dtype in DTYPES.items()}


class MultiArray:
    """Of memory that it does not own (an input), or with rows padded to 64 bytes (an output)."""

    def __init__(self, memory: Any, array: Any) -> None:
        self.memory, self.array = memory, array

    @classmethod
    def padded(cls, array: Any) -> MultiArray:
        last = -(-array.shape[-1] * array.itemsize // 64) * 64 // array.itemsize
        memory = np.full((*array.shape[:-1], last), 77, array.dtype)
        memory[..., : array.shape[-1]] = array
        return cls(memory, memory[..., : array.shape[-1]])

    def shape(self) -> list[int]:
        return list(self.array.shape)

    def strides(self) -> list[int]:
        return [stride // self.array.itemsize for stride in self.array.strides]

    def dataType(self) -> int:
        return NUMBERS[self.array.dtype]

    def getBytesWithHandler_(self, handler: Any) -> None:
        data = self.memory.tobytes()
        handler(data, len(data))

    def getMutableBytesWithHandler_(self, handler: Any) -> None:
        handler(self.memory.reshape(-1).view(np.uint8), self.memory.nbytes, self.strides())


class State:
    def __init__(self, held: dict[str, Any]) -> None:
        self.held = held
        self.arrays = {k: MultiArray.padded(v.astype(np.float16)) for k, v in held.items()}

    def getMultiArrayForStateNamed_handler_(self, name: str, handler: Any) -> None:
        handler(self.arrays[name])


class FakeCoreML:
    """The modules `CoreML` and `Foundation`; `calls` holds selectors and what matters of them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.refuses: str | None = None  # a selector that fails
        fake = self

        def outcome(selector: str, result: Any) -> tuple[Any, Any]:
            if fake.refuses == selector:
                return None, SimpleNamespace(localizedDescription=lambda: "no such thing here")
            return result, None

        class Allocated:
            def initWithDataPointer_shape_dataType_strides_deallocator_error_(
                self, data: Any, shape: Any, kind: Any, strides: Any, free: Any, error: Any
            ) -> Any:
                assert free is None
                assert error is None
                dtype = np.dtype(DTYPES[kind])
                steps = [stride * dtype.itemsize for stride in strides]
                return outcome("array", MultiArray(data, np.ndarray(shape, dtype, data, 0, steps)))

            def initWithDictionary_error_(self, values: Any, error: Any) -> Any:
                assert error is None
                return outcome("provider", values)

            def init(self) -> Any:
                return Configuration()

        class Configuration:
            units: int = -1
            function: str | None = None

            def setComputeUnits_(self, units: int) -> None:
                self.units = units

            def setFunctionName_(self, name: str) -> None:
                self.function = name

        class Model:
            def __init__(self, path: str, configuration: Configuration) -> None:
                self.program = MilProgram.open(path)
                self.function = configuration.function or self.program.default

            def newState(self) -> State:
                fake.calls.append(("newState", self.function))
                return State(self.program.make_state(self.function))

            def predictionFromFeatures_error_(self, provider: Any, error: Any) -> Any:
                assert not self.program.functions[self.function].states
                return self._predict(provider, None)

            def predictionFromFeatures_usingState_error_(
                self, provider: Any, state: State, error: Any
            ) -> Any:
                return self._predict(provider, state)

            def _predict(self, provider: Any, state: State | None) -> Any:
                fake.calls.append(("predict", self.function))
                declared = self.program.functions[self.function]
                for spec in declared.inputs:
                    assert provider[spec.name].array.shape == spec.shape
                held = None
                if state is not None:
                    held = {k: a.array.astype(np.float32) for k, a in state.arrays.items()}
                inputs = {name: value.array for name, value in provider.items()}
                found = self.program.predict(
                    inputs, function=self.function, state=held, mode="declared"
                )
                for name, array in (held or {}).items():
                    state.arrays[name].array[...] = array
                features = {
                    name: SimpleNamespace(multiArrayValue=lambda a=array: MultiArray.padded(a))
                    for name, array in found.items()
                }
                result = SimpleNamespace(featureValueForName_=features.__getitem__)
                return outcome("predict", result)

        class MLModel:
            @staticmethod
            def compileModelAtURL_error_(url: Any, error: Any) -> Any:
                fake.calls.append(("compile", Path(url.path()).name))
                made = Path(tempfile.mkdtemp()) / "made.mlmodelc"
                shutil.copytree(url.path(), made)
                return outcome("compile", SimpleNamespace(path=lambda: str(made)))

            @staticmethod
            def modelWithContentsOfURL_configuration_error_(
                url: Any, configuration: Configuration, error: Any
            ) -> Any:
                assert url.path().endswith(".mlmodelc")
                fake.calls.append(("load", configuration.function, configuration.units))
                return outcome("load", Model(url.path(), configuration))

        allocating = SimpleNamespace(alloc=Allocated)
        self.coreml = SimpleNamespace(
            MLModel=MLModel,
            MLModelConfiguration=allocating,
            MLMultiArray=allocating,
            MLDictionaryFeatureProvider=allocating,
            MLFeatureValue=SimpleNamespace(featureValueWithMultiArray_=lambda array: array),
        )
        self.foundation = SimpleNamespace(
            NSURL=SimpleNamespace(
                fileURLWithPath_=lambda path: SimpleNamespace(path=lambda: str(path))
            )
        )
