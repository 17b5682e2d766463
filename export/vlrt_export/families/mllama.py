"""Llama 3.2 Vision: https://arxiv.org/abs/2407.21783, section 7; meta-llama/Llama-3.2-11B-Vision.

vision_encoder: four tiles of a picture -> features.  projector: features -> keys and values of
every cross-attention layer.  decoder: Llama, with gated layers between that look at those; without
a picture they are skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlrt_export.checkpoint import Checkpoint
from vlrt_export.config import (
    decoder_config,
    image_config,
    image_parameters,
    require,
    text_config,
)
from vlrt_export.families import Family, Fixed, Runtime, one_size, replace_prefix
from vlrt_export.families.mllama_decoder import Decoder, Projector
from vlrt_export.families.mllama_layers import HIDDEN, VisionConfig, arrangements
from vlrt_export.families.mllama_vision import VisionEncoder
from vlrt_export.layers.llama import DecoderConfig
from vlrt_runtime.errors import CheckpointError

BILINEAR = 2  # of PIL
# What transformers' MllamaTextConfig takes where config.json is silent.
TEXT = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
    "eos_token_id": 128001,
    "cross_attention_layers": (3, 8, 13, 18, 23, 28, 33, 38),
}
# What transformers' MllamaImageProcessor takes where preprocessor_config.json is silent.
CLASS_IMAGE = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
RENAMES = (
    ("language_model.model.", "language_model."),
    ("language_model.lm_head.", "lm_head."),
)
SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


@dataclass(frozen=True, kw_only=True)
class Config:
    """config.json, by its own names."""

    decoder: DecoderConfig
    vision: VisionConfig
    cross_attention_layers: tuple[int, ...]

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Config:
        """From config.json as published or as transformers 5 writes it.

        Raises:
            CheckpointError: a layer that looks at pictures is none of the layers.
        """
        text = language(config)
        decoder, crosses = decoder_config(text), tuple(text["cross_attention_layers"])
        if not set(crosses) <= set(range(decoder.num_hidden_layers)):
            raise CheckpointError(
                f"config.json: cross_attention_layers {crosses}, expected 0 to "
                f"{decoder.num_hidden_layers - 1}"
            )
        vision = VisionConfig.read(config.get("vision_config") or {})
        return cls(decoder=decoder, vision=vision, cross_attention_layers=crosses)


def language(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's part of config.json, with its class's defaults."""
    return text_config({**config, "text_config": TEXT | (config.get("text_config") or {})})


def canonical(name: str) -> str | None:
    """`vision_model.*`, `multi_modal_projector.*`, `language_model.*` and `lm_head.*`."""
    if name.endswith("rotary_emb.inv_freq"):
        return None
    return replace_prefix(name.removeprefix("model."), RENAMES)


def runtime(checkpoint: Checkpoint, config: Config) -> Runtime:
    """Token ids, the tiles' sizes and the scaled rotary frequencies, for the manifest."""
    text, vision = language(checkpoint.config), config.vision
    given = image_config(checkpoint)
    side, most = {"height": vision.image_size, "width": vision.image_size}, vision.max_num_tiles
    size, tiles = given.get("size", side), given.get("max_image_tiles", most)
    if size != side or tiles != most:
        raise CheckpointError(
            f"preprocessor_config.json: size {size} and max_image_tiles {tiles}, expected {side} "
            f"and {most} as config.json says"
        )
    rope = text["rope"]
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", "llama3"):
        raise CheckpointError(f"config.json: rope_type {kind!r}, expected llama3 or default")
    image = image_parameters(checkpoint, tile_size=vision.image_size, max_tiles=most, **CLASS_IMAGE)
    return Runtime(
        tokens={
            "image": checkpoint.config.get("image_token_index", 128256),
            "bos": text.get("bos_token_id", 128000),
        },
        image=image
        | {
            "resample": given.get("resample", BILINEAR),
            "arrangements": arrangements(most),
            # Which rows of the layers named the features hold: newer transformers take the outputs,
            # the weights were trained with the inputs.
            "intermediate_layers_indices": vision.intermediate_layers_indices,
            "intermediate_features": "layer inputs",
        },
        rope={
            "theta": rope["rope_theta"],
            "head_dim": config.decoder.head_dim,
            "scaling": {key: require(rope, key) for key in SCALING} if kind == "llama3" else None,
        },
        max_context=text["max_position_embeddings"],
    )


def fixed(config: Config, runtime: Runtime, sizes: Sequence[tuple[int, int]]) -> Fixed:
    """One picture, whose unused tiles are hidden."""
    return replace(
        one_size(config, runtime, sizes),
        decoder={"tiles": config.vision.max_num_tiles},
        padding={"cross_attention_mask": HIDDEN},
        image={"max_pictures": 1},
    )


FAMILY = Family(
    name="mllama",
    canonical=canonical,
    config=Config.read,
    graphs={"vision_encoder": VisionEncoder, "projector": Projector, "decoder": Decoder},
    embedding="language_model.embed_tokens.weight",
    runtime=runtime,
    fixed=fixed,
)
