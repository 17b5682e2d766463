"""Reads config.json and preprocessor_config.json in their published and their newer forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlrt_export.checkpoint import Checkpoint
from vlrt_export.layers.basic import ACTIVATIONS
from vlrt_export.layers.llama import DecoderConfig
from vlrt_runtime.errors import CheckpointError

__all__ = [
    "decoder_config",
    "image_config",
    "image_parameters",
    "llama_text",
    "require",
    "square_parameters",
    "text_config",
]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3  # of PIL
# What transformers' LlamaConfig takes where config.json is silent.
LLAMA: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}


def require(config: Mapping[str, Any], key: str) -> Any:
    """A value that has no default.

    Raises:
        CheckpointError: it is not there.
    """
    if config.get(key) is None:
        raise CheckpointError(f"config.json: it has no {key!r}; is this checkpoint complete?")
    return config[key]


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's part of config.json, flat or nested.

    What older files call rope_theta and rope_scaling and newer ones rope_parameters is one `rope`.
    """
    nested = config.get("text_config") or {}
    text = {key: value for key, value in config.items() if not key.endswith("_config")} | nested
    rope = {
        "rope_theta": text.get("rope_theta", 10000.0),
        **(text.get("rope_scaling") or {}),
        **(text.get("rope_parameters") or {}),
    }
    return text | {"rope": rope}


def llama_text(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's part of config.json where that is a plain Llama, with its defaults.

    Raises:
        CheckpointError: it is another model, or its positions are scaled.
    """
    model_type = (config.get("text_config") or {}).get("model_type", "llama")
    text = LLAMA | text_config(config)
    rope_type = text["rope"].get("rope_type") or text["rope"].get("type") or "default"
    for key, found, known in (("model_type", model_type, "llama"), ("rope", rope_type, "default")):
        if found != known:
            raise CheckpointError(f"config.json: text_config has {key} {found!r}, expected {known}")
    return text


def decoder_config(text: Mapping[str, Any], **overrides: Any) -> DecoderConfig:
    """Sizes of a Llama-like decoder.

    Raises:
        CheckpointError: a size is missing or too small, or the activation is unknown.
    """
    heads, hidden = require(text, "num_attention_heads"), require(text, "hidden_size")
    head_dim = text.get("head_dim") or hidden // heads
    if head_dim == 0:
        raise CheckpointError(
            f"config.json: hidden_size {hidden}, expected at least num_attention_heads, {heads}"
        )
    act = text.get("hidden_act", "silu")
    if act not in ACTIVATIONS:
        raise CheckpointError(
            f"config.json: hidden_act {act!r}, expected one of {', '.join(ACTIVATIONS)}"
        )
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": require(text, "intermediate_size"),
        "num_hidden_layers": require(text, "num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": text.get("num_key_value_heads") or heads,
        "head_dim": head_dim,
        "vocab_size": require(text, "vocab_size"),
        "rms_norm_eps": text.get("rms_norm_eps", 1e-6),
        "hidden_act": act,
        "tie_word_embeddings": bool(text.get("tie_word_embeddings", False)),
    }
    return DecoderConfig(**(sizes | overrides))


def image_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The picture processor's file, or its part of processor_config.json (newer ones)."""
    given = checkpoint.optional_json("preprocessor_config.json") or dict(
        checkpoint.optional_json("processor_config.json").get("image_processor") or {}
    )
    size = given.get("size")  # of older files: a number, which is that of the shortest edge
    return given | {"size": {"shortest_edge": size}} if isinstance(size, int) else given


def image_parameters(checkpoint: Checkpoint, **defaults: Any) -> dict[str, Any]:
    """Parameters of the picture processor: `defaults`, where preprocessor_config.json is silent."""
    given = image_config(checkpoint)
    size = given.get("size") or {}
    given = {
        "min_pixels": size.get("shortest_edge"),
        "max_pixels": size.get("longest_edge"),
    } | given
    merged = {key: given.get(key) or default for key, default in defaults.items()}
    return merged | {
        "mean": given.get("image_mean") or defaults.get("mean") or CLIP_MEAN,
        "std": given.get("image_std") or defaults.get("std") or CLIP_STD,
        "rescale_factor": given.get("rescale_factor") or 1 / 255,
        "resample": given.get("resample", BICUBIC),
    }


def square_parameters(checkpoint: Checkpoint, side: int, **defaults: Any) -> dict[str, Any]:
    """Parameters of a processor that makes every picture a square of the encoder's `side`.

    `shortest_edge` is there where it scales that edge and cuts the middle out, and is absent where
    it squashes the picture.

    Raises:
        CheckpointError: pictures would come out in another size.
    """
    given = image_config(checkpoint)
    size = given.get("size") or {"height": side, "width": side}
    crop = given.get("crop_size") or side
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    edge = size.get("shortest_edge")
    made = size if edge is None else crop
    if {made.get("height"), made.get("width")} != {side} or (edge or side) < side:
        raise CheckpointError(
            f"preprocessor_config.json: size {size} and crop_size {crop}, expected pictures of "
            f"{side}x{side} as config.json says"
        )
    shape = {"size": side} if edge is None else {"size": side, "shortest_edge": edge}
    return image_parameters(checkpoint, **defaults) | shape
