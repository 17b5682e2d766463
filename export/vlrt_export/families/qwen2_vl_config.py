"""Qwen2-VL's configuration: what graphs are made of, and what the manifest must say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrt_export.checkpoint import Checkpoint
from vlrt_export.config import decoder_config, image_parameters, require, text_config
from vlrt_export.families import Fixed, Runtime
from vlrt_export.layers.llama import DecoderConfig
from vlrt_runtime.errors import InputError

__all__ = ["Config", "fixed", "runtime", "video_limits"]

# The published limit is 16,384 tokens of 28 x 28 pixels: minutes of encoding on a laptop.
DEVICE_MAX_PIXELS = 1280 * 28 * 28
# Square, wide and high pictures of 256 to 260 tokens, as (height, width), where that many may be.
SIZES = ((448, 448), (364, 560), (560, 364))


@dataclass(frozen=True, kw_only=True)
class Config:
    """config.json, by its own names."""

    decoder: DecoderConfig
    depth: int
    embed_dim: int
    num_heads: int
    mlp_ratio: int
    hidden_act: str
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    in_channels: int

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Config:
        """From config.json as published (flat) or as transformers 5 writes it (nested)."""
        vision = require(config, "vision_config")
        return cls(
            decoder=decoder_config(text_config(config), attention_bias=True),
            depth=vision.get("depth", 32),
            embed_dim=vision.get("embed_dim", 1280),
            num_heads=vision.get("num_heads", 16),
            mlp_ratio=vision.get("mlp_ratio", 4),
            hidden_act=vision.get("hidden_act", "quick_gelu"),
            patch_size=vision.get("patch_size", 14),
            temporal_patch_size=vision.get("temporal_patch_size", 2),
            spatial_merge_size=vision.get("spatial_merge_size", 2),
            in_channels=vision.get("in_channels", 3),
        )

    @property
    def patch_shape(self) -> tuple[int, int, int, int]:
        """Of one patch: channels, frames, rows, columns."""
        return self.in_channels, self.temporal_patch_size, self.patch_size, self.patch_size


def video_limits(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the checkpoint says of a video's frames; the published ones say nothing."""
    given = checkpoint.optional_json("video_preprocessor_config.json") or dict(
        checkpoint.optional_json("processor_config.json").get("video_processor") or {}
    )
    size = {
        "min_pixels": given.get("min_pixels") or (given.get("size") or {}).get("shortest_edge"),
        "max_pixels": given.get("max_pixels") or (given.get("size") or {}).get("longest_edge"),
    }
    return {"video": size} if all(size.values()) else {}


def runtime(checkpoint: Checkpoint, config: Config) -> Runtime:
    """Token ids, the picture processor's parameters and M-RoPE's, for the manifest."""
    text = text_config(checkpoint.config)
    top = checkpoint.config
    rope = require(text, "rope")
    image = image_parameters(
        checkpoint,
        patch_size=config.patch_size,
        temporal_patch_size=config.temporal_patch_size,
        merge_size=config.spatial_merge_size,
        min_pixels=56 * 56,
        max_pixels=DEVICE_MAX_PIXELS,
    )
    return Runtime(
        tokens={
            "image": top.get("image_token_id", 151655),
            "video": top.get("video_token_id", 151656),
            "vision_start": top.get("vision_start_token_id", 151652),
            "vision_end": top.get("vision_end_token_id", 151653),
        },
        image={
            **image,
            "max_pixels": min(image["max_pixels"], DEVICE_MAX_PIXELS),
            **video_limits(checkpoint),
        },
        rope={
            "theta": rope["rope_theta"],
            "sections": require(rope, "mrope_section"),
            "head_dim": config.decoder.head_dim,
            "vision_head_dim": config.embed_dim // config.num_heads,
        },
        max_context=text.get("max_position_embeddings", 32768),
    )


def fixed(config: Config, runtime: Runtime, sizes: Sequence[tuple[int, int]]) -> Fixed:
    """Patches of pictures of these sizes.

    Raises:
        InputError: a side is no multiple of what becomes one token.
    """
    unit = config.patch_size * config.spatial_merge_size
    for height, width in sizes:
        if height % unit or width % unit or min(height, width) < unit:
            near = (max(unit, round(side / unit) * unit) for side in (width, height))
            raise InputError(
                f"image size {width}x{height}: expected multiples of {unit}, as "
                f"{'x'.join(map(str, near))}"
            )
    limit = runtime.image["max_pixels"]
    chosen = list(dict.fromkeys(sizes)) or [_within(size, limit, unit) for size in SIZES]
    area = config.patch_size**2
    return Fixed(
        vision=[{"patches": height * width // area} for height, width in chosen],
        image={"sizes": [list(size) for size in chosen]},
    )


def _within(size: tuple[int, int], limit: int, unit: int) -> tuple[int, int]:
    """A size of about that shape and of at most so many pixels."""
    shrink = min(1.0, math.sqrt(limit / (size[0] * size[1])))
    height, width = (max(unit, int(side * shrink) // unit * unit) for side in size)
    return height, width
