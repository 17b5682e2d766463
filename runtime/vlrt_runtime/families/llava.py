"""LLaVA-1.5 at run time (https://arxiv.org/abs/2310.03744).

Of a picture it sees the middle square; `<image>` in the prompt stands for all of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from vlrt_runtime.families.square import SquareFamily
from vlrt_runtime.manifest import Manifest

__all__ = ["family"]


def family(manifest: Manifest, limits: Mapping[str, int]) -> SquareFamily:
    """The family's half of a package; see `SquareFamily`."""
    return SquareFamily(manifest, limits)
