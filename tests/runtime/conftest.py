"""A model, and an answer of it that others are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

import vlrt
from support.pictures import picture
from vlrt_runtime.model import Model


@pytest.fixture(scope="module")
def model(small_package: Path) -> Model:
    """One that computes everything every time."""
    return Model(small_package, threads=1, image_cache_mb=0, prefix_cache_mb=0)


@pytest.fixture(scope="module")
def free(model: Model) -> vlrt.Answer:
    """Of whatever `model` is in the module."""
    return model.generate("What is this?", images=[picture(90, 60)], max_new_tokens=24)
