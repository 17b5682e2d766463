"""`--device coreml` for ONNX packages: onnxruntime's Core ML provider, for the vision encoder only.

The provider takes graphs of fixed sizes and common operators; the decoder has neither, and would
copy its cache at every step. What it cannot take runs on the CPU, and a note says why. Packages
exported with --target coreml are the better way. Not yet run on Apple hardware.
Source: https://onnxruntime.ai/docs/execution-providers/CoreML-ExecutionProvider.html
"""

from __future__ import annotations

import warnings

from vlrt_runtime.backends.options import BackendOptions
from vlrt_runtime.errors import PackageError
from vlrt_runtime.package import Package, user_folder
from vlrt_runtime.session import Session, open_session, ort

__all__ = ["VISION", "open_vision"]

VISION = "vision_encoder"
PROVIDER = "CoreMLExecutionProvider"
UNITS = {
    "cpu-and-gpu": "CPUAndGPU",
    "cpu-and-ne": "CPUAndNeuralEngine",
    "all": "ALL",
    "cpu": "CPUOnly",
}
FLOATS = ("fp16", "fp32")  # of its matrices: the provider knows no quantised ones


def open_vision(package: Package, options: BackendOptions, threads: int) -> Session:
    """The vision encoder on Core ML where that is possible, and else on the CPU with a note."""
    path = package.graph(VISION)
    reason = _hindrance(package)
    if reason is None:
        # Programs that were compiled are kept by the graph's content, which names their folder.
        digest = package.manifest.files[path.name].sha256[:32]
        settings = {
            "ModelFormat": "MLProgram",
            "MLComputeUnits": UNITS[options.compute_units or "all"],
            "RequireStaticInputShapes": "1",
            "ModelCacheDirectory": str(user_folder() / "coreml" / digest),
        }
        try:
            return open_session(
                path, device="cpu", threads=threads, accelerator=(PROVIDER, settings)
            )
        except PackageError as error:
            reason = str(error)
    warnings.warn(f"the vision encoder runs on the CPU, not on Core ML: {reason}", stacklevel=2)
    return open_session(path, device="cpu", threads=threads)


def _hindrance(package: Package) -> str | None:
    graph = package.manifest.graphs[VISION]
    if PROVIDER not in ort.get_available_providers():
        return f"onnxruntime {ort.__version__} has no {PROVIDER} here; it has it on macOS"
    if graph.precision.kind not in FLOATS:
        kind = graph.precision.kind
        return f"its matrices are {kind}; export the package with --vision fp16"
    if any(isinstance(size, str) for spec in graph.inputs for size in spec.shape):
        return "it takes pictures of any size; export the package with --target coreml"
    return None
