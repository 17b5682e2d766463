"""The checkpoints that `make_checkpoint.py` can write, by short name."""

from __future__ import annotations

from recipes import kosmos2, llama3_vision_alpha, llava, mllama, qwen2_vl
from recipes.recipe import Recipe

__all__ = ["RECIPES"]

RECIPES: dict[str, Recipe] = {
    **kosmos2.RECIPES,
    **llama3_vision_alpha.RECIPES,
    **llava.RECIPES,
    **mllama.RECIPES,
    **qwen2_vl.RECIPES,
}
