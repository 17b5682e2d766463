"""Core ML through pyobjc: one `MLModel` a function, states shared among them.

Not yet run on Apple hardware. Sources: developer.apple.com/documentation/coreml (MLModel,
MLMultiArray, MLState) and pyobjc-framework-CoreML 12.2's metadata, which turns an `error:` at the
end of a selector into a second result.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vlrt_runtime.coreml.compiled import compiled, interfaces
from vlrt_runtime.errors import PackageError
from vlrt_runtime.mil.types import NUMPY, Array

__all__ = ["ObjCProgram"]

UNITS = {"cpu": 0, "cpu-and-gpu": 1, "all": 2, "cpu-and-ne": 3}  # MLComputeUnits
# MLMultiArrayDataType
TYPES = {"fp16": 0x10000 | 16, "fp32": 0x10000 | 32, "int32": 0x20000 | 32, "int8": 0x20000 | 8}
DTYPES = {number: NUMPY[name] for name, number in TYPES.items()}


class ObjCProgram:
    """See `vlrt_runtime.backends.coreml.Program`.

    Args:
        path: the `.mlpackage`.
        units: that may compute.

    Raises:
        PackageError: it is damaged, or Core ML does not accept it.
    """

    def __init__(self, path: Path, units: str) -> None:
        self.functions = interfaces(path)
        self._path, self._units = path, units
        self._coreml: Any = import_module("CoreML")
        self._foundation: Any = import_module("Foundation")
        self._models: dict[str, Any] = {}
        self._lock = threading.Lock()

    def make_state(self, function: str | None = None) -> Any:
        """An `MLState`, zeros; None for a program without states."""
        name = function or next(iter(self.functions))
        return self._model(name).newState() if self.functions[name].states else None

    def copy_state(self, state: Any) -> Any:
        """Another `MLState` of the same content, by way of our memory."""
        name = next((name for name, f in self.functions.items() if f.states), None)
        if name is None:
            return None
        copy = self.make_state(name)
        for spec in self.functions[name].states:
            found: list[Array] = []

            def read(array: Any, found: list[Array] = found) -> None:
                found.append(_to_numpy(array))

            def write(array: Any, found: list[Array] = found) -> None:
                _fill(array, found[0])

            state.getMultiArrayForStateNamed_handler_(spec.name, read)
            copy.getMultiArrayForStateNamed_handler_(spec.name, write)
        return copy

    def predict(
        self, inputs: Mapping[str, Array], *, function: str | None = None, state: Any = None
    ) -> dict[str, Array]:
        """Runs a function on arrays of its declared shapes."""
        name = function or next(iter(self.functions))
        model, declared = self._model(name), self.functions[name]
        # Core ML reads from these arrays: they must outlive the call.
        held = {
            spec.name: np.ascontiguousarray(inputs[spec.name], NUMPY[spec.dtype])
            for spec in declared.inputs
        }
        values = {
            spec.name: self._coreml.MLFeatureValue.featureValueWithMultiArray_(
                self._multi_array(held[spec.name], spec.dtype)
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

    def _model(self, function: str) -> Any:
        with self._lock:
            model = self._models.get(function)
            if model is None:
                model = self._models[function] = self._load(function)
            return model

    def _load(self, function: str) -> Any:
        url = self._url(compiled(self._path, self._compile))
        configuration = self._coreml.MLModelConfiguration.alloc().init()
        configuration.setComputeUnits_(UNITS[self._units])
        if len(self.functions) > 1:  # a program of one function may have none by name
            configuration.setFunctionName_(function)
        model, error = self._coreml.MLModel.modelWithContentsOfURL_configuration_error_(
            url, configuration, None
        )
        self._check(model, error, f"does not load {function!r}")
        return model

    def _compile(self, path: Path) -> Path:
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
            raise PackageError(
                f"{self._path}: Core ML {what}: {reason}; try --compute-units cpu, and "
                "--device mil-interpreter to tell the package from the device"
            )


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
