"""Which writer a target's graphs go to, and the options that it alone has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from vlrt_export.checkpoint import Checkpoint
from vlrt_export.families import Family
from vlrt_export.graphs import GraphWriter, OnnxWriter
from vlrt_export.target import Target
from vlrt_runtime.errors import InputError

__all__ = ["writer_for"]

Writer = Callable[[Path], GraphWriter]


def writer_for(
    target: Target, image_sizes: Sequence[tuple[int, int]], context: int | None
) -> Callable[[Family, Checkpoint], Writer]:
    """What makes the writer of a folder, given the model.

    Args:
        target: what the graphs are made for.
        image_sizes: (width, height) of pictures.
        context: positions of the cache.

    Raises:
        InputError: the target has no such option.
        MissingDependencyError: a library of the target's is not installed.
    """
    if target.profile is not None:
        return _coreml(target.profile, image_sizes, context)
    if image_sizes or context is not None:
        name = "image size" if image_sizes else "context"
        raise InputError(f"{name}: ONNX graphs take any; leave it out, or choose --target coreml")
    return lambda family, checkpoint: OnnxWriter


def _coreml(
    profile: str, image_sizes: Sequence[tuple[int, int]], context: int | None
) -> Callable[[Family, Checkpoint], Writer]:
    from vlrt_export.coreml.profiles import PROFILES
    from vlrt_export.coreml.writer import CoreMLOptions, CoreMLWriter

    length = PROFILES[profile].context if context is None else context
    if length < 1:
        raise InputError(f"context {length}: expected 1 or more")

    def writer(family: Family, checkpoint: Checkpoint) -> Writer:
        config = family.config(checkpoint.config)
        runtime = family.runtime(checkpoint, config)
        fixed = family.fixed(config, runtime, [(height, width) for width, height in image_sizes])
        limit = runtime.max_context
        if context is not None and context > limit:
            raise InputError(f"context {context}: this model was made for at most {limit}")
        options = CoreMLOptions(
            profile=profile,
            sizes=fixed.vision,
            decoder_sizes=fixed.decoder,
            padding=fixed.padding,
            image=fixed.image,
            context=min(length, limit),
        )
        return partial(CoreMLWriter, options=options)

    return writer
