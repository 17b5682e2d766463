"""Core ML through pyobjc: one `MLModel` a function, states shared among them.

Not yet run on Apple hardware. Sources: developer.apple.com/documentation/coreml (MLModel,
MLMultiArray, MLState) and pyobjc-framework-CoreML 12.2's metadata, which turns an `error:` at the
end of a selector into a second result.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vlrt_runtime.coreml.compiled import compiled
from vlrt_runtime.coreml.program import CoreMLProgram
from vlrt_runtime.mil.types import NUMPY, Array

__all__ = ["ObjCProgram"]

UNITS = {"cpu": 0, "cpu-and-gpu": 1, "all": 2, "cpu-and-ne": 3}  # MLComputeUnits
# MLMultiArrayDataType
TYPES = {"fp16": 0x10000 | 16, "fp32": 0x10000 | 32, "int32": 0x20000 | 32, "int8": 0x20000 | 8}
DTYPES = {number: NUMPY[name] for name, number in TYPES.items()}


class ObjCProgram(CoreMLProgram):
    """See `CoreMLProgram`."""

    def __init__(self, path: Path, units: str) -> None:
        super().__init__(path, units)
        self._coreml: Any = import_module("CoreML")
        self._foundation: Any = import_module("Foundation")

    def _new_state(self, model: Any) -> Any:
        return model.newState()

    def _copy(self, name: str, state: Any, copy: Any) -> None:
        found: list[Array] = []

        def read(array: Any) -> None:
            found.append(_to_numpy(array))

        def write(array: Any) -> None:
            _fill(array, found[0])

        state.getMultiArrayForStateNamed_handler_(name, read)
        copy.getMultiArrayForStateNamed_handler_(name, write)

    def _run(self, model: Any, name: str, given: dict[str, Array], state: Any) -> dict[str, Array]:
        declared = self.functions[name]
        values = {
            spec.name: self._coreml.MLFeatureValue.featureValueWithMultiArray_(
                self._multi_array(given[spec.name], spec.dtype)
            )
            for spec in declared.inputs
        }
        provider, error = (
            self._coreml.MLDictionaryFeatureProvider.alloc().initWithDictionary_error_(values, None)
        )
        self._check(provider, error, "takes no such inputs")
        if declared.states:
            result, error = model.predictionFromFeatures_usingState_error_(provider, state, None)
        else:
            result, error = model.predictionFromFeatures_error_(provider, None)
        self._check(result, error, f"failed to run {name!r}")
        return {
            spec.name: _to_numpy(result.featureValueForName_(spec.name).multiArrayValue())
            for spec in declared.outputs
        }

    def _load(self, function: str | None) -> Any:
        url = self._url(compiled(self._path, self._compile))
        configuration = self._coreml.MLModelConfiguration.alloc().init()
        configuration.setComputeUnits_(UNITS[self._units])
        if function is not None:
            configuration.setFunctionName_(function)
        model, error = self._coreml.MLModel.modelWithContentsOfURL_configuration_error_(
            url, configuration, None
        )
        self._check(model, error, f"does not load {function or 'it'!r}")
        return model

    def _compile(self, path: Path, _: Path) -> Path:
        url, error = self._coreml.MLModel.compileModelAtURL_error_(self._url(path), None)
        self._check(url, error, "does not compile it")
        return Path(str(url.path()))

    def _multi_array(self, array: Array, dtype: str) -> Any:
        """The array's own memory as an `MLMultiArray`."""
        allocated = self._coreml.MLMultiArray.alloc()
        strides = [stride // array.itemsize for stride in array.strides]
        made, error = allocated.initWithDataPointer_shape_dataType_strides_deallocator_error_(
            memoryview(array).cast("B"), list(array.shape), TYPES[dtype], strides, None, None
        )
        self._check(made, error, "takes no such array")
        return made

    def _url(self, path: Path) -> Any:
        return self._foundation.NSURL.fileURLWithPath_(str(path))

    def _check(self, result: Any, error: Any, what: str) -> None:
        if result is None:
            reason = "it gives no reason" if error is None else error.localizedDescription()
            raise self._refused(what, reason)


def _to_numpy(array: Any) -> Array:
    """A copy of an `MLMultiArray`, whose rows may be padded."""
    dtype = DTYPES[int(array.dataType())]
    shape = [int(size) for size in array.shape()]
    strides = [int(stride) * dtype.itemsize for stride in array.strides()]
    found: list[Array] = []

    def read(data: Any, size: int) -> None:
        found.append(np.ndarray(shape, dtype, memoryview(data)[:size], 0, strides).copy())

    array.getBytesWithHandler_(read)
    return found[0]


def _fill(array: Any, content: Array) -> None:
    """Writes into an `MLMultiArray`, whose rows may be padded."""

    def write(data: Any, size: int, strides: Any) -> None:
        steps = [int(stride) * content.itemsize for stride in strides]
        np.ndarray(content.shape, content.dtype, memoryview(data)[:size], 0, steps)[...] = content

    array.getMutableBytesWithHandler_(write)
