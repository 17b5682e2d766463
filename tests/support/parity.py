"""A package beside transformers, stage by stage: the one body of all families' parity tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from vlrt.verify import projector_output
from vlrt.verify.reference import Reference, ReferenceRun
from vlrt_runtime.model import Model

__all__ = ["assert_parity", "greedy_steps"]

# float32 sums of a few thousand products in another order: some 1e-5 on values of about 10.
TOLERANCE = 1e-4


def assert_parity(
    model: Model,
    reference: Reference,
    messages: Sequence[dict[str, Any]],
    images: Sequence[Image.Image] = (),
    *,
    new_tokens: int = 32,
) -> ReferenceRun:
    """Every stage within 1e-4 of the reference, ids and greedy tokens equal.

    Returns:
        What the reference did.
    """
    inputs = reference.inputs(messages, images)
    expected = reference.run(inputs, new_tokens)
    layout, pictures = model.prepare(messages, images)
    assert layout.token_ids.tolist() == inputs.token_ids
    encoded = [model.encode(picture) for picture in pictures]
    assert len(encoded) == len(expected.vision_features) == len(images)
    for got, want in zip(encoded, expected.vision_features, strict=True):
        _close(got["image_features"][0], want, "vision features")
    projected = [model.projector(outputs) for outputs in encoded]
    for got, want in zip(projected, expected.image_embeds, strict=True):
        _close(projector_output(got), want, "projected features")
    embeds = model.splice(layout, projected)
    _close(embeds, expected.inputs_embeds, "spliced embeddings")
    decoder = model.decoder(projected)
    logits = decoder.run(layout.inputs(embeds, 0), num_logits=len(layout.token_ids))
    _close(logits, expected.logits, "logits")
    answer = model.generate(messages, images=images, max_new_tokens=new_tokens)
    assert expected.margins.min() > 10 * TOLERANCE, "near ties: this prompt proves nothing"
    assert answer.token_ids == expected.token_ids
    assert answer.finish_reason == expected.finish_reason
    return expected


def greedy_steps(
    model: Model,
    messages: Sequence[dict[str, Any]],
    images: Sequence[Any],
    count: int,
    *,
    fed: Sequence[int] = (),
) -> tuple[list[int], np.ndarray]:
    """Token ids of `count` single steps, and the logits [count, vocab] each was chosen from.

    The decoder is given the ids of `fed`, where there are any, in place of those it chose.
    """
    layout, pictures = model.prepare(messages, images)
    projected = [model.projector(model.encode(picture)) for picture in pictures]
    decoder = model.decoder(projected)
    logits = model.prefill(decoder, layout, model.splice(layout, projected))[-1]
    rows, ids = [logits.copy()], [int(logits.argmax())]
    while len(ids) < count:
        logits = model.step(decoder, layout, (fed or ids)[len(ids) - 1])
        rows.append(logits.copy())
        ids.append(int(logits.argmax()))
    return ids, np.stack(rows)


def _close(got: np.ndarray, want: np.ndarray, what: str) -> None:
    assert got.shape == want.shape, what
    difference = float(np.abs(got - want).max())
    assert difference < TOLERANCE, f"{what}: {difference:.2e}"
