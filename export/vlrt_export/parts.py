"""Opens a checkpoint: one folder, or a model whose three parts were published apart.

Parts are seen as one checkpoint whose tensors have the names that the model gives its attributes:
`text_model.`, `vision_model.` and `mm_projector.` before each part's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vlrt_export.checkpoint import Checkpoint, Tensor, read_header
from vlrt_export.sources import Source, resolve
from vlrt_export.torch_file import read_torch_file
from vlrt_runtime.errors import CheckpointNotFoundError, InputError

__all__ = ["PartsCheckpoint", "open_checkpoint"]

MODEL_TYPE = "llamavision"  # of models that are made of such parts
PICTURES = ("preprocessor_config.json", "processor_config.json")
PathLike = str | os.PathLike[str]


class PartsCheckpoint(Checkpoint):
    """A language model with a vision tower and a projector beside it.

    Tokenizer and stop ids are the language model's, the picture processor is the tower's.

    Args:
        folder: the language model's checkpoint.
        tower: the vision tower's checkpoint: a vision model, or one of pictures and text.
        projector: tensors in a safetensors file, or as `torch.save` wrote them.
    """

    def __init__(self, folder: Path, tower: Path, projector: Path) -> None:
        super().__init__(folder)
        self._base, self._tower, self._projector = Checkpoint(folder), Checkpoint(tower), projector
        vision = self._tower.config
        self.config = {
            "model_type": MODEL_TYPE,
            "text_config": self._base.config,
            "vision_config": vision.get("vision_config") or vision,
        }

    def optional_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the part that it is about, or an empty object where there is none."""
        return (self._tower if name in PICTURES else self._base).optional_json(name)

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """Every tensor by its part's prefix and its name in that part."""
        is_safe = self._projector.suffix == ".safetensors"
        read = read_header if is_safe else read_torch_file
        parts = {
            "text_model.": self._base.stored.values(),
            "vision_model.": self._tower.stored.values(),
            "mm_projector.": read(self._projector),
        }
        return {
            prefix + tensor.name: replace(tensor, name=prefix + tensor.name)
            for prefix, tensors in parts.items()
            for tensor in tensors
        }

    @property
    def files(self) -> dict[str, Path]:
        """The files that are read, by part and name."""
        tower = {f"vision_tower/{name}": path for name, path in self._tower.files.items()}
        return self._base.files | tower | {f"projector/{self._projector.name}": self._projector}


def open_checkpoint(
    source: PathLike,
    *,
    vision_tower: PathLike | None = None,
    projector_file: PathLike | None = None,
    revision: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Checkpoint, Source]:
    """Finds a checkpoint, downloads what is missing, and opens it.

    Args:
        source: a folder, hub id or short name: the whole model, or its language model alone.
        vision_tower: a folder or hub id, where the language model stands alone.
        projector_file: the projector's weights, where the language model stands alone.
        revision: branch, tag or commit of `source` on the hub.
        progress: called with (what, bytes done, bytes in all).

    Raises:
        VlrtError: a part is not to be had, or cannot be used.
    """
    if (vision_tower is None) != (projector_file is None):
        lacking = "--vision-tower" if vision_tower is None else "--projector-file"
        raise InputError(
            f"{lacking} is missing: a model in parts has a language model, a vision tower and a "
            "projector; give all three, or the folder of a whole model alone"
        )
    projector = None if projector_file is None else Path(projector_file).expanduser()
    if projector is not None and not projector.is_file():
        raise CheckpointNotFoundError(
            f"{projector}: no such file; expected the projector's weights, a .safetensors or .bin"
        )
    found = resolve(source, revision=revision, progress=progress)
    if vision_tower is None or projector is None:
        return Checkpoint(found.folder), found
    tower = resolve(vision_tower, progress=progress)
    digests = {f"vision_tower/{name}": digest for name, digest in tower.digests.items()}
    checkpoint = PartsCheckpoint(found.folder, tower.folder, projector)
    return checkpoint, replace(found, digests={**found.digests, **digests})
