"""vlrt: vision-language models on your own machine.

    model = vlrt.load("qwen2-vl-2b")
    answer = model.generate("What is this?", images=["a.jpg"])

    vlrt.export("Qwen/Qwen2-VL-2B-Instruct", "out/", precision="int4")

Importing this is cheap: libraries are loaded by the first call that needs them.
"""

from __future__ import annotations

import importlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from vlrt_runtime.errors import VlrtError
from vlrt_runtime.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vlrt_runtime.conversation import Chat
    from vlrt_runtime.model import Answer, AsyncStream, Model, Stream, Timings
    from vlrt_runtime.options import Progress
    from vlrt_runtime.sampling import Sampling
    from vlrt_runtime.video import Video

__all__ = [
    "Answer",
    "AsyncStream",
    "Chat",
    "Model",
    "Progress",
    "Sampling",
    "Stream",
    "Timings",
    "Video",
    "VlrtError",
    "__version__",
    "export",
    "load",
]

# name -> the module of the runtime that has it
MODULES = {
    "Answer": "answer",
    "AsyncStream": "stream",
    "Chat": "conversation",
    "Model": "model",
    "Progress": "options",
    "Sampling": "sampling",
    "Stream": "stream",
    "Timings": "answer",
    "Video": "video",
}


def load(
    package: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    image_cache_mb: int = 512,
    image_cache_folder: str | os.PathLike[str] | None = None,
    prefix_cache_mb: int = 512,
    keep_encoder: bool = True,
    compute_units: str | None = None,
    mil_precision: str = "fp32",
    cache: bool = True,
    parallel: int = 1,
    memory_mb: int | None = None,
    idle_unload_s: float | None = None,
) -> Model:
    """Opens a package: a folder, a name exported before, or `demo`, the model in the box.

    See `Model` for the options.
    """
    from vlrt_runtime.model import Model

    if os.fspath(package) == "demo":
        from vlrt.demo import demo_package

        package = demo_package()
    return Model(
        package,
        device=device,
        threads=threads,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        image_cache_mb=image_cache_mb,
        image_cache_folder=image_cache_folder,
        prefix_cache_mb=prefix_cache_mb,
        keep_encoder=keep_encoder,
        compute_units=compute_units,
        mil_precision=mil_precision,
        cache=cache,
        parallel=parallel,
        memory_mb=memory_mb,
        idle_unload_s=idle_unload_s,
    )


def export(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    precision: str | None = None,
    vision: str | None = None,
    projector: str | None = None,
    decoder: str | None = None,
    embedding: str = "source",
    target: str = "onnx",
    device: str | None = None,
    profile: str | None = None,
    image_sizes: Sequence[tuple[int, int]] = (),
    context: int | None = None,
    block_size: int | None = None,
    accuracy_level: int = 4,
    quantizer: str | None = None,
    calibrate: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    vision_tower: str | os.PathLike[str] | None = None,
    projector_file: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Turns a checkpoint into a package; without `output`, one to `load` by the source's name.

    See `vlrt_export.exporter.export` for the options; `calibrate` is a folder of pictures here.

    Raises:
        MissingDependencyError: the export extra is not installed.
    """
    from vlrt_runtime.errors import MissingDependencyError
    from vlrt_runtime.package import default_output

    try:
        from vlrt_export.exporter import export as run
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"export needs {error.name}, which is not installed: pip install 'vlrt[export]'"
        ) from error
    prompts = None
    if calibrate is not None:
        from vlrt.calibrate import PicturePrompts, picture_files

        prompts = partial(PicturePrompts, files=picture_files(calibrate))
    return run(
        source,
        default_output(source) if output is None else output,
        precision=precision,
        vision=vision,
        projector=projector,
        decoder=decoder,
        embedding=embedding,
        target=target,
        device=device,
        profile=profile,
        image_sizes=image_sizes,
        context=context,
        block_size=block_size,
        accuracy_level=accuracy_level,
        quantizer=quantizer,
        calibrate=prompts,
        revision=revision,
        vision_tower=vision_tower,
        projector_file=projector_file,
        force=force,
        progress=progress,
    )


def __getattr__(name: str) -> Any:
    module = MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'vlrt' has no attribute {name!r}")
    return getattr(importlib.import_module(f"vlrt_runtime.{module}"), name)
