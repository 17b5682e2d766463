"""Kosmos-2's config.json; where it is silent, the class's defaults, which are the checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vlrt_export.layers.vit import CLIP, ViTConfig

__all__ = ["Config", "TextConfig"]

VISION = replace(
    CLIP,
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    patch_size=14,
)
TEXT_KEYS = {
    "hidden_size": "embed_dim",
    "intermediate_size": "ffn_dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "attention_heads",
}


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Sizes of the decoder; config.json calls the first four embed_dim, ffn_dim, layers and so on.

    The defaults are the class's, which are the published checkpoint's.
    """

    hidden_size: int = 2048
    intermediate_size: int = 8192
    num_hidden_layers: int = 24
    num_attention_heads: int = 32
    vocab_size: int = 65037
    activation_function: str = "gelu"
    layer_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, kw_only=True)
class Config:
    """config.json: both models, and how many rows a picture becomes."""

    vision: ViTConfig
    decoder: TextConfig
    latent_query_num: int

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Config:
        """From config.json."""
        text = config.get("text_config") or {}
        names = {name: TEXT_KEYS.get(name, name) for name in TextConfig.__dataclass_fields__}
        # The class takes either name.
        said: dict[str, Any] = {name: text.get(key, text.get(name)) for name, key in names.items()}
        given = {name: value for name, value in said.items() if value is not None}
        given["tie_word_embeddings"] = bool(
            config.get("tie_word_embeddings", text.get("tie_word_embeddings", True))
        )
        decoder = TextConfig(**given)
        vision = VISION.updated(config.get("vision_config") or {})
        latents = config.get("latent_query_num", 64)
        return cls(vision=vision, decoder=decoder, latent_query_num=latents)
