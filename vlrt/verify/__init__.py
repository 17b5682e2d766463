"""`verify`: proof that a package says what its checkpoint says.

transformers runs the original in float32 beside the package, on one picture and one question, and
every stage is compared: what the encoder sees, what the projector makes of it, the logits, and the
greedy tokens one by one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt.verify.reference import ReferenceInputs, ReferenceRun, load_reference
from vlrt_runtime.backends import Decoder
from vlrt_runtime.errors import InputError
from vlrt_runtime.families import Layout
from vlrt_runtime.families.qwen2_vl_image import nearest_size
from vlrt_runtime.image import load_image
from vlrt_runtime.manifest import MANIFEST
from vlrt_runtime.model import Model
from vlrt_runtime.transforms import resize

__all__ = [
    "Divergence",
    "Stage",
    "Verification",
    "compare",
    "projector_output",
    "test_picture",
    "verify",
]

FloatArray = NDArray[Any]


@dataclass(frozen=True)
class Stage:
    """One graph's output against the reference's.

    Attributes:
        name: of the graph or of what was compared.
        difference: the largest, absolute.
        scale: the largest absolute value of the reference.
    """

    name: str
    difference: float
    scale: float


@dataclass(frozen=True)
class Divergence:
    """The first greedy token that differs.

    Attributes:
        index: of the token in the answer.
        token_id: the package's; None where it stopped.
        expected_id: the reference's; None where it stopped.
        margin: how far the package's logit was ahead of its next best.
        expected_margin: the same of the reference: a near tie tells of rounding, not of an error.
    """

    index: int
    token_id: int | None
    expected_id: int | None
    margin: float
    expected_margin: float


@dataclass(frozen=True)
class Verification:
    """What was found; `stages` from pixels to logits."""

    stages: tuple[Stage, ...]
    prompt_equal: bool
    agreed_tokens: int
    compared_tokens: int
    divergence: Divergence | None

    def as_dict(self) -> dict[str, Any]:
        """As it is printed by --json and kept in the manifest."""
        return asdict(self)


def verify(
    package: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    *,
    image: str | os.PathLike[str] | None = None,
    prompt: str = "Describe this image.",
    max_new_tokens: int = 32,
    threads: int | None = None,
    device: str = "auto",
    compute_units: str | None = None,
    mil_precision: str = "fp32",
    write: bool = False,
) -> Verification:
    """Compares a package with the checkpoint it was made from.

    It is the package's own files that are compared: prepacked weights are neither used nor made.

    Args:
        package: folder or name.
        checkpoint: folder, short name or hub id.
        image: a picture's file; a drawn one where not given.
        prompt: the question.
        max_new_tokens: greedy tokens to compare.
        threads: cores the package uses.
        device: that runs the package, see `vlrt_runtime.model.Model`.
        compute_units: of Core ML.
        mil_precision: of a Core ML package that is interpreted.
        write: keep the result in the package's manifest.

    Raises:
        MissingDependencyError: torch or transformers are not installed.
        VlrtError: package, checkpoint or picture cannot be used.
    """
    from vlrt_export.sources import resolve

    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens {max_new_tokens}: expected at least 1")
    model = Model(
        package,
        device=device,
        threads=threads,
        compute_units=compute_units,
        mil_precision=mil_precision,
        cache=False,
    )
    picture = test_picture() if image is None else load_image(image)
    reference = load_reference(resolve(checkpoint).folder, model.manifest.family)
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    messages = [{"role": "user", "content": content}]
    limits = {k: v for k, v in model.manifest.image.items() if k in ("min_pixels", "max_pixels")}
    if sizes := model.manifest.image.get("sizes"):
        # Graphs of fixed sizes: the reference is given the picture at the size that they take.
        height, width = nearest_size(picture.height, picture.width, sizes)
        resample = model.manifest.image["resample"]
        picture = resize(picture, height=height, width=width, resample=resample)
        limits = dict.fromkeys(limits, height * width)
    inputs = reference.inputs(messages, [picture], image_options=limits)
    found = compare(model, inputs, reference.run(inputs, max_new_tokens), [picture], prompt)
    if write:
        _write(model, found)
    return found


def compare(
    model: Model,
    inputs: ReferenceInputs,
    expected: ReferenceRun,
    images: Sequence[Image.Image],
    prompt: str,
) -> Verification:
    """Runs a package stage by stage and compares it with what the reference did."""
    layout, pictures = model.prepare(prompt, images)
    encoded = [model.encode(picture) for picture in pictures]
    projected = [model.projector(outputs) for outputs in encoded]
    pixels = [picture.inputs["pixel_values"][0] for picture in pictures]
    stages = [
        _stage("pixel_values", pixels, inputs.pixel_values),
        _stage(
            "vision_encoder", [e["image_features"][0] for e in encoded], expected.vision_features
        ),
        _stage("projector", [projector_output(p) for p in projected], expected.image_embeds),
    ]
    embeds = model.splice(layout, projected)
    stages.append(_stage("inputs_embeds", [embeds], [expected.inputs_embeds]))
    length = len(layout.token_ids)
    prompt_equal = layout.token_ids.tolist() == inputs.token_ids
    if prompt_equal:
        logits = model.decoder(projected).run(layout.inputs(embeds, 0), num_logits=length)
        stages.append(_stage("decoder", [logits], [expected.logits]))
    agreed, divergence = _greedy(model, model.decoder(projected), layout, embeds, expected)
    compared = len(expected.token_ids) + (expected.finish_reason == "stop")
    return Verification(tuple(stages), prompt_equal, agreed, compared, divergence)


def projector_output(outputs: Mapping[str, FloatArray]) -> FloatArray:
    """What the projector made of a picture, as `ReferenceRun.image_embeds` holds it."""
    arrays = [array[0] for array in outputs.values()]
    return arrays[0] if len(arrays) == 1 else np.stack(arrays)


def _greedy(
    model: Model,
    decoder: Decoder,
    layout: Layout,
    embeds: FloatArray,
    expected: ReferenceRun,
) -> tuple[int, Divergence | None]:
    """How many tokens agree, and the first that does not; a stop counts as a token."""
    settings = model.manifest.generation
    wanted: list[int | None] = list(expected.token_ids)
    if expected.finish_reason == "stop":
        wanted.append(None)
    seen: list[int] = layout.token_ids.tolist()
    logits = model.prefill(decoder, layout, embeds)[-1]
    for index, expected_id in enumerate(wanted):
        seen.append(token := model.choose(logits, seen))
        token_id = None if token in settings.stop_ids else token
        if token_id != expected_id:
            second, best = np.partition(logits, -2)[-2:]
            margins = float(best - second), float(expected.margins[index])
            return index, Divergence(index, token_id, expected_id, *margins)
        if index + 1 < len(wanted):
            logits = model.step(decoder, layout, token)
    return len(wanted), None


def _stage(name: str, got: Sequence[FloatArray], expected: Sequence[FloatArray]) -> Stage:
    if [a.shape for a in got] != [a.shape for a in expected]:
        return Stage(name, float("inf"), 0.0)
    pairs = list(zip(got, expected, strict=True))
    difference = max((float(np.abs(a - b).max()) for a, b in pairs), default=0.0)
    scale = max((float(np.abs(b).max()) for _, b in pairs), default=0.0)
    return Stage(name, difference, scale)


def test_picture() -> Image.Image:
    """A drawn picture, 500 x 336: gradients behind a pattern, so that every patch differs."""
    y, x = np.mgrid[0:336, 0:500]
    channels = (x * 255 // 499, y * 255 // 335, (x // 25 + y // 21) % 2 * 200 + 27)
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def _write(model: Model, found: Verification) -> None:
    """Replaces the manifest in one step, so that a crash leaves the old one."""
    import msgspec

    manifest = msgspec.structs.replace(model.manifest, verification=found.as_dict())
    path = model.package.folder / MANIFEST
    partial = path.with_suffix(".partial")
    partial.write_bytes(manifest.to_json())
    partial.replace(path)
