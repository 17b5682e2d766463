"""`export`: a checkpoint in, a package out, in bounded memory and without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlrt_export.atomic import atomic_folder, check_target
from vlrt_export.calibrate import Prompts, collect
from vlrt_export.families import family_of
from vlrt_export.formats import writer_for
from vlrt_export.job import Job, Progress
from vlrt_export.parts import open_checkpoint
from vlrt_export.plan import CALIBRATED, EMBEDDINGS, check_calibration, precision_plan
from vlrt_export.quantizers import DEFAULT, QUANTIZERS
from vlrt_export.target import CPU, target_for
from vlrt_export.weights import Factors
from vlrt_runtime.errors import InputError

__all__ = ["export"]


def export(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
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
    calibrate: Callable[[Path], Prompts] | None = None,
    revision: str | None = None,
    vision_tower: str | os.PathLike[str] | None = None,
    projector_file: str | os.PathLike[str] | None = None,
    name: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Turns a checkpoint into a package.

    Args:
        source: a folder, a hub id (`owner/name`) or a short name; see `vlrt models`.
        output: the package's folder; it appears only when the package is whole.
        precision: fp32, fp16, int8, or int4 (int4 decoder, and what the target has for the rest);
            int4 where not given, and int8 for the Neural Engine.
        vision: precision of the vision encoder, where it is to differ.
        projector: precision of the projector, where it is to differ.
        decoder: precision of the decoder, where it is to differ.
        embedding: of the embedding table: fp32, fp16, int8, or source (as the checkpoint has it).
        target: kind of the graphs: onnx or coreml.
        device: to make ONNX graphs for: cpu, which is taken where not given, or cuda. For cuda,
            activations are float16 unless the precision is fp32, and int4 leaves all but the
            decoder at fp16.
        profile: to make Core ML programs for: gpu, which is taken where not given, or ane.
        image_sizes: (width, height) of the pictures that Core ML programs take, where a model
            takes several.
        context: positions of Core ML's cache; 2048 where not given, 1024 for the Neural Engine.
        block_size: weights that share a scale in int8 and int4: 16, 32, 64, 128 or 256; where not
            given 128, and 32 for Core ML.
        accuracy_level: of int8 and int4 on the CPU: 4 multiplies with int8 activations, 0 with
            float32.
        quantizer: of int8 and int4, see `vlrt_export.quantizers`: rtn, mse, hqq or gptq; mse where
            not given, and gptq with `calibrate`, which is for int4 alone.
        calibrate: prompts for gptq, given a package of the same graphs that it may read.
        revision: branch, tag or commit on the hub.
        vision_tower: a folder or hub id, where `source` is a language model alone.
        projector_file: the projector's weights, where `source` is a language model alone.
        name: the model's name, for people; the folder's where not given.
        force: replace a package that is already there.
        progress: called with (what, bytes done, bytes in all).

    Returns:
        The package's folder.

    Raises:
        VlrtError: see `vlrt_runtime.errors`; nothing is left at `output` then.
    """
    # Of `.` the name is wanted, and pathlib keeps `..` and fails on `~nobody`.
    place = Path(os.path.abspath(os.path.expanduser(output)))  # noqa: PTH100, PTH111
    report = progress or (lambda what, done, total: None)
    if embedding not in EMBEDDINGS:
        raise InputError(f"embedding {embedding!r}: expected one of {', '.join(EMBEDDINGS)}")
    overrides = {"vision_encoder": vision, "projector": projector, "decoder": decoder}
    lowering = target_for(target, device, profile)
    precision = precision or lowering.precision
    kinds: dict[str, Any] = {"target": lowering, "accuracy_level": accuracy_level}
    kinds["block_size"] = block_size or lowering.block_size
    make_writer = writer_for(lowering, image_sizes, context)
    kinds["quantizer"] = quantizer or (CALIBRATED if calibrate else DEFAULT)
    words = precision_plan(overrides, precision=precision, overrides=overrides, **kinds)
    check_calibration(kinds["quantizer"], words.values(), calibrated=calibrate is not None)
    check_target(place, force=force)
    checkpoint, found = open_checkpoint(
        source,
        vision_tower=vision_tower,
        projector_file=projector_file,
        revision=revision,
        progress=report,
    )
    family = family_of(checkpoint)
    plan = precision_plan(family.graphs, precision=precision, overrides=overrides, **kinds)
    writer = make_writer(family, checkpoint)
    with atomic_folder(place, force=force) as folder:
        factors: dict[str, Factors] = {}
        scratch = folder / "calibration"
        if calibrate is not None:
            # Of 8 bits: a quarter of the disk, and hardly another activation. In blocks: what is
            # multiplied is seen as it is, and not turned.
            in_blocks = replace(CPU, turned=False)
            rough = precision_plan(family.graphs, precision="int8", target=in_blocks)
            scratch.mkdir()
            job = Job(checkpoint, family, rough, embedding, scratch, {})
            made = job.package(place.name, found, report, lasting=False)
            found = replace(found, digests=made.source.files)
            seen = [key for key, part in plan.items() if QUANTIZERS[part.quantizer].calibrated]
            factors = collect(scratch, calibrate(scratch), seen, scratch / "factors", report)
        job = Job(checkpoint, family, plan, embedding, folder, factors, lowering, writer)
        job.package(name or place.name, found, report, without=scratch)
    return place
