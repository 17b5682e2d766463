"""What `make_checkpoint.py` needs to know of a published checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CLIP", "Recipe"]

CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


@dataclass(frozen=True)
class Recipe:
    """A published checkpoint: its files' content, and how graph names become published ones.

    Attributes:
        family: of `vlrt_export.families`.
        config: config.json.
        files: other JSON files by name; without a tokenizer.json a byte-level one is made.
        special_tokens: of the tokenizer that is made.
        regex: by which the tokenizer that is made splits text.
        renames: (prefix of the graphs' names, prefix of the published ones); the first that fits.
        template: the chat template; None where the checkpoint has none.
        embedding_rows: where there are more than the head has.
        extra: tensors that no graph takes, by published name.
    """

    family: Any
    config: dict[str, Any]
    files: dict[str, dict[str, Any]]
    special_tokens: dict[str, int]
    regex: str
    renames: tuple[tuple[str, str], ...]
    template: str | None = None
    embedding_rows: int | None = None
    extra: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
