"""Positions and rotary tables against transformers: what its layers are given, on the way there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.pictures import picture
from vlrt.verify.reference import Reference, load_reference
from vlrt_runtime.families.qwen2_vl import mrope_positions
from vlrt_runtime.model import Model

torch = pytest.importorskip("torch", reason="the reference is transformers on torch")


@pytest.fixture(scope="module")
def reference(small_qwen2_vl: Path) -> Reference:
    return load_reference(small_qwen2_vl, "qwen2_vl")


@pytest.fixture(scope="module")
def model(small_package: Path) -> Model:
    return Model(small_package, threads=1)


@pytest.mark.parametrize("seed", range(24))
def test_positions_of_random_layouts(reference: Reference, seed: int):
    """Up to three pictures of any shape, with text before, between and after them."""
    draws = random.Random(seed)
    inner = reference.model.model
    merged = [(1, draws.randint(1, 9), draws.randint(1, 9)) for _ in range(draws.randint(0, 3))]
    kinds = [0] * draws.randint(0, 4)
    for _, rows, columns in merged:
        kinds += [1] * rows * columns + [0] * draws.randint(1, 5)
    kinds = kinds or [0]
    grids = torch.tensor([[1, 2 * rows, 2 * columns] for _, rows, columns in merged])
    ids = torch.tensor([kinds]) * reference.model.config.image_token_id
    expected, delta = inner.get_rope_index(
        ids, torch.tensor([kinds]), image_grid_thw=grids if merged else None
    )
    got = mrope_positions(np.array(kinds, np.bool_), merged)
    np.testing.assert_array_equal(got, expected[:, 0].numpy())
    assert got.max() + 1 - len(kinds) == int(delta)


CHATS: dict[str, tuple[str, list[tuple[int, int]]]] = {
    "text": ("a few words", []),
    "wide": ("?", [(500, 100)]),
    "tall": ("?", [(60, 400)]),
    "two": ("compare", [(90, 60), (200, 333)]),
}


@pytest.mark.parametrize("chat", CHATS)
def test_tables_are_what_the_layers_get(model: Model, reference: Reference, chat: str):
    question, sizes = CHATS[chat]
    images = [picture(*size) for size in sizes]
    content = [*[{"type": "image"}] * len(images), {"type": "text", "text": question}]
    inputs = reference.inputs([{"role": "user", "content": content}], images)
    text, vision = [], []

    def keep_text(_: Any, __: Any, tables: Any) -> None:
        text.extend(table[0].numpy() for table in tables)

    def keep_vision(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        vision.extend(table.numpy() for table in kwargs["position_embeddings"])

    inner = reference.model.model
    hooks = [
        inner.language_model.rotary_emb.register_forward_hook(keep_text),
        inner.visual.blocks[0].register_forward_pre_hook(keep_vision, with_kwargs=True),
    ]
    try:
        reference.forward_logits(inputs)
    finally:
        for hook in hooks:
            hook.remove()

    layout, pictures = model.prepare(question, images)
    made = layout.inputs(np.zeros((1, len(layout.token_ids), 64), np.float32), 0)
    for name, expected in zip(("cos", "sin"), text, strict=True):
        half = made[name].shape[-1]
        np.testing.assert_array_equal(expected[:, :half], expected[:, half:])
        np.testing.assert_allclose(made[name][0], expected[:, :half], atol=2e-6)
    if pictures:
        for name, expected in zip(("cos", "sin"), vision, strict=True):
            got = np.concatenate([one.inputs[name][0] for one in pictures])
            np.testing.assert_allclose(got, expected[:, : got.shape[-1]], atol=2e-6)
