"""onnxruntime sessions: devices, threads, and outputs by name."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import cache, partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from vlrt_runtime.errors import DeviceError, InputError, PackageError
from vlrt_runtime.halt import haltable
from vlrt_runtime.operator_model import operator_model

__all__ = [
    "DEVICES",
    "DTYPES",
    "Graph",
    "Session",
    "as_dtype",
    "open_session",
    "ort",
    "pick_device",
    "products_saturate",
    "run_options",
    "session_options",
]

ort: Any = onnxruntime  # it has no types; all of vlrt takes it from here
Session = Any  # onnxruntime.InferenceSession

Array = NDArray[Any]

# dtypes of graphs' inputs and outputs
DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
LARGEST_HALF = 65504  # of float16

# device -> (execution provider, what to install where it is missing)
DEVICES = {
    "cpu": ("CPUExecutionProvider", "pip install onnxruntime"),
    "cuda": (
        "CUDAExecutionProvider",
        "pip uninstall onnxruntime, then pip install onnxruntime-gpu (NVIDIA driver, CUDA, cuDNN)",
    ),
}


def pick_device(wanted: str, exported_for: str) -> str:
    """The device to run on: `wanted`, or for auto the one the package was exported for.

    Raises:
        InputError: no device has that name.
        PackageError: this version does not know the one that the package was exported for.
        DeviceError: this installation of onnxruntime does not have it, or lacks kernels for it.
    """
    if wanted not in ("auto", *DEVICES):
        raise InputError(
            f"device {wanted!r}: a package of ONNX graphs takes one of auto, {', '.join(DEVICES)}"
        )
    if exported_for not in DEVICES:
        raise PackageError(
            f"manifest.json: device {exported_for!r}, expected {' or '.join(DEVICES)}; update vlrt"
        )
    available: list[str] = ort.get_available_providers()
    if wanted == "auto":
        return exported_for if DEVICES[exported_for][0] in available else "cpu"
    provider, remedy = DEVICES[wanted]
    if provider not in available:
        raise DeviceError(
            f"device {wanted!r}: onnxruntime {ort.__version__} has no {provider} here, only "
            f"{', '.join(available)}; to add it: {remedy}"
        )
    if wanted == "cuda" != exported_for:
        # It would run, its attention on the CPU: there is no kernel for float32.
        raise DeviceError(
            f"device {wanted!r}: the package was exported for {exported_for}; export it again with "
            f"--device {wanted}, or choose --device {exported_for}"
        )
    return wanted


def open_session(
    path: Path,
    *,
    device: str,
    threads: int,
    accelerator: tuple[str, dict[str, str]] | None = None,
    entries: Mapping[str, str] | None = None,
    save: Path | None = None,
) -> Session:
    """Loads a graph; an `accelerator` is a provider with its settings, for the parts it takes.

    `entries` are further settings of onnxruntime's session; `save` is where it writes the graph as
    it is after loading.

    Raises:
        PackageError: onnxruntime cannot load it.
        DeviceError: the device was there but could not be used.
    """
    if device == "cuda":
        _preload_libraries()
    options = session_options(threads)
    options.log_severity_level = 3  # errors; warnings are about choices made on purpose
    for name, value in (entries or {}).items():
        options.add_session_config_entry(name, value)
    if save is not None:
        options.optimized_model_filepath = str(save)
    provider = DEVICES[device][0]
    providers: list[Any] = [provider] if device == "cpu" else [provider, DEVICES["cpu"][0]]
    if accelerator is not None:
        providers.insert(0, accelerator)
    try:
        # By path, never from bytes: weights are then read, not copied.
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PackageError(
            f"{path}: onnxruntime {ort.__version__} cannot load it: {reason}; "
            "check the package with `vlrt inspect --check`, or export it again"
        ) from error
    if provider not in session.get_providers():
        raise DeviceError(
            f"device {device!r}: onnxruntime could not start {provider}; check the driver "
            "(nvidia-smi), pip install 'onnxruntime-gpu[cuda,cudnn]', or choose --device cpu"
        )
    return session


def session_options(threads: int) -> Any:
    """Options of a session whose products of 8-bit integers are exact."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


@cache
def products_saturate() -> bool:
    """Whether products of unsigned and signed 8-bit integers come out too small here.

    x86 without VNNI adds pairs of them in 16 bits (VPMADDUBSW). onnxruntime can do better, but
    would at the cost of speed on processors that need not; so a product tells.
    """
    k, n = 64, 16
    weights = {"w": np.full((k, n), 127, np.int8), "s": np.ones(n, np.float32)}
    content = operator_model("DynamicQuantizeMatMul", k, weights, {})
    session = ort.InferenceSession(content, providers=[DEVICES["cpu"][0]])
    (product,) = session.run(None, {"x": np.ones((n, k), np.float32)})
    return bool(product.min() < 0.9 * 127 * k)


def as_dtype(array: Array, dtype: Any) -> Array:
    """The array as a graph wants it; in float16, numbers beyond its range become its largest."""
    if array.dtype == dtype:
        return array
    if dtype == np.float16:
        array = np.clip(array, -LARGEST_HALF, LARGEST_HALF)
    return array.astype(dtype)


@cache
def _preload_libraries() -> None:
    """Finds CUDA and cuDNN where pip installed them; what is missing is told by the session."""
    preload = getattr(ort, "preload_dlls", None)  # since 1.21
    if preload is not None:
        with redirect_stdout(StringIO()):  # it prints, where answers are to stand alone
            preload()


@contextmanager
def run_options(entries: Mapping[str, str] | None = None) -> Generator[Any]:
    """Options of one run, which ends early, between two operators, where it is halted."""
    options = ort.RunOptions()
    for name, value in (entries or {}).items():
        options.add_run_config_entry(name, value)
    with haltable(partial(setattr, options, "terminate", True)):
        yield options


class Graph:
    """A stateless graph: arrays by name in, arrays by name out. Safe to call from any thread."""

    def __init__(self, session: Session) -> None:
        self.inputs = {value.name: DTYPES[value.type] for value in session.get_inputs()}
        self.outputs: list[str] = [value.name for value in session.get_outputs()]
        self._session = session

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the graph on the inputs it has; what else is in `inputs` is left alone."""
        feed = {
            name: np.ascontiguousarray(as_dtype(inputs[name], dtype))
            for name, dtype in self.inputs.items()
        }
        # What a large picture needed is given back, not kept for the next one.
        entries = {"memory.enable_memory_arena_shrinkage": "cpu:0"}
        with run_options(entries) as options:
            results = self._session.run(self.outputs, feed, options)
        return dict(zip(self.outputs, results, strict=True))
