"""A tiny Qwen2-VL: the 2B checkpoint's files, names and ids around layers of a megabyte.

Sizes that the real model lets pass for one another differ here (vision width, text width, merger
width, head counts), and `rope_theta` is so small that all three parts of a position show in the
logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from support.tiny.common import (
    Dtype,
    Parameter,
    embedding,
    matrix,
    publish,
    random_tensors,
    vector,
    write_json,
)
from support.tiny.qwen2_vl_text import CHAT_TEMPLATE, Tokens, Vocabulary

__all__ = ["Layout", "make_qwen2_vl"]

Layout = Literal["published", "transformers5", "state_dict"]
"""As on the hub; as transformers 5 saves it; the latter with the names of its `state_dict()`."""

SEED = 19


def make_qwen2_vl(
    folder: Path,
    *,
    seed: int = SEED,
    dtype: Dtype = "float32",
    layout: Layout = "published",
    vocabulary: Vocabulary = "published",
    tie: bool = True,
    shards: int = 2,
    **config_overrides: Any,
) -> Path:
    """Write a complete checkpoint into `folder`, which is made, and return it.

    Args:
        folder: Where to write.
        seed: Of the weights; the default one answers the pinned prompt with no margin below 0.08.
        dtype: Of the weights.
        layout: Which program's way of naming things to follow.
        vocabulary: The real ids, or few.
        tie: Whether the head is the embedding table; if not, `lm_head.weight` is written.
        shards: How many files of weights; a single one has no index.
        **config_overrides: Laid over config.json in its published form, before the weights are
            shaped by it; a `vision_config` is laid over the default one key by key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = Tokens(vocabulary)
    config = _published_config(tokens, dtype=dtype, tie=tie)
    vision_config = config["vision_config"] | config_overrides.pop("vision_config", {})
    config |= config_overrides | {"vision_config": vision_config}

    tensors = random_tensors(_parameters(config, tokens), seed=seed, dtype=dtype)
    if layout == "state_dict":
        tensors = {_state_dict_name(name): tensor for name, tensor in tensors.items()}
    publish(folder, tensors, shards=shards)

    published = layout == "published"
    write_json(folder / "config.json", config if published else _transformers5_config(config))
    write_json(folder / "generation_config.json", tokens.generation_config())
    write_json(folder / "preprocessor_config.json", _preprocessor_config(published=published))
    write_json(folder / "tokenizer.json", tokens.tokenizer())
    write_json(folder / "tokenizer_config.json", tokens.tokenizer_config(published=published))
    if published:
        write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    else:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return folder


def _published_config(tokens: Tokens, *, dtype: Dtype, tie: bool) -> dict[str, Any]:
    """config.json in the flat form of the hub, with its two keys that no class knows."""
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": tokens.specials["<|endoftext|>"],
        "eos_token_id": tokens.specials["<|im_end|>"],
        "vision_start_token_id": tokens.specials["<|vision_start|>"],
        "vision_end_token_id": tokens.specials["<|vision_end|>"],
        "vision_token_id": tokens.specials["<|vision_pad|>"],
        "image_token_id": tokens.specials["<|image_pad|>"],
        "video_token_id": tokens.specials["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 112,
        "max_position_embeddings": 32768,
        "max_window_layers": 3,
        "model_type": "qwen2_vl",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": tie,
        "torch_dtype": dtype,
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": 2,
            "embed_dim": 48,
            "mlp_ratio": 4,
            "num_heads": 3,
            "in_chans": 3,
            "hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vocab_size": tokens.rows,
    }


def _transformers5_config(config: dict[str, Any]) -> dict[str, Any]:
    """The same as transformers 5 saves it: text keys nested, rope keys gathered, dtypes renamed."""
    dtype = config["torch_dtype"]
    outer = {
        "architectures": config["architectures"],
        "dtype": dtype,
        "model_type": config["model_type"],
        "tie_word_embeddings": config["tie_word_embeddings"],
        "transformers_version": "5.23.0",
    }
    outer |= {key: config[key] for key in config if key.startswith(("vision_", "image_", "video_"))}
    rope = {"rope_theta": config["rope_theta"], "rope_type": "default", **config["rope_scaling"]}
    gone = {*outer, "torch_dtype", "rope_theta", "rope_scaling"}
    text = {key: value for key, value in config.items() if key not in gone}
    layers = config["num_hidden_layers"]
    outer["text_config"] = text | {
        "dtype": dtype,
        "layer_types": ["full_attention"] * layers,
        "model_type": "qwen2_vl_text",
        "pad_token_id": None,
        "rope_parameters": rope,
        "sliding_window": None,
    }
    outer["vision_config"] = config["vision_config"] | {
        "dtype": dtype,
        "hidden_act": "quick_gelu",
        "in_channels": 3,
        "initializer_range": 0.02,
        "model_type": "qwen2_vl_vision",
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"},
    }
    return outer


def _preprocessor_config(*, published: bool) -> dict[str, Any]:
    """preprocessor_config.json; transformers 5 writes the limits of the size in its own words."""
    smallest, largest = 3136, 12845056
    common = {
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
    }
    if published:
        limits = {"min_pixels": smallest, "max_pixels": largest}
        return limits | common | {"processor_class": "Qwen2VLProcessor"}
    return common | {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": smallest, "longest_edge": largest},
    }


def _parameters(config: dict[str, Any], tokens: Tokens) -> dict[str, Parameter]:
    """Every tensor of the checkpoint under its published name."""
    hidden, vision = config["hidden_size"], config["vision_config"]
    table = embedding(config["vocab_size"], hidden, spoken=tokens.spoken)
    parameters = {"model.embed_tokens.weight": table, "model.norm.weight": vector(hidden, centre=1)}
    if not config["tie_word_embeddings"]:
        parameters["lm_head.weight"] = table
    for layer in range(config["num_hidden_layers"]):
        parameters |= _decoder_layer(f"model.layers.{layer}.", config)
    for layer in range(vision["depth"]):
        parameters |= _vision_block(f"visual.blocks.{layer}.", vision)
    return parameters | _vision_ends(vision)


def _decoder_layer(prefix: str, config: dict[str, Any]) -> dict[str, Parameter]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = hidden // config["num_attention_heads"]
    keys = head * config["num_key_value_heads"]
    layer = {
        "input_layernorm.weight": vector(hidden, centre=1),
        "post_attention_layernorm.weight": vector(hidden, centre=1),
        "self_attn.q_proj.weight": matrix(hidden, hidden, gain=1.5),
        "self_attn.q_proj.bias": vector(hidden),
        "self_attn.k_proj.weight": matrix(keys, hidden, gain=1.5),
        "self_attn.k_proj.bias": vector(keys),
        "self_attn.v_proj.weight": matrix(keys, hidden, gain=2.5),
        "self_attn.v_proj.bias": vector(keys),
        "self_attn.o_proj.weight": matrix(hidden, hidden, gain=2.5),
        "mlp.gate_proj.weight": matrix(inner, hidden, gain=2.0),
        "mlp.up_proj.weight": matrix(inner, hidden, gain=2.0),
        "mlp.down_proj.weight": matrix(hidden, inner, gain=2.0),
    }
    return {prefix + name: parameter for name, parameter in layer.items()}


def _vision_block(prefix: str, vision: dict[str, Any]) -> dict[str, Parameter]:
    width, inner = vision["embed_dim"], vision["embed_dim"] * vision["mlp_ratio"]
    block = {
        "norm1.weight": vector(width, centre=1),
        "norm1.bias": vector(width),
        "norm2.weight": vector(width, centre=1),
        "norm2.bias": vector(width),
        "attn.qkv.weight": matrix(3 * width, width, gain=1.5),
        "attn.qkv.bias": vector(3 * width),
        "attn.proj.weight": matrix(width, width, gain=1.5),
        "attn.proj.bias": vector(width),
        "mlp.fc1.weight": matrix(inner, width, gain=1.5),
        "mlp.fc1.bias": vector(inner),
        "mlp.fc2.weight": matrix(width, inner, gain=1.5),
        "mlp.fc2.bias": vector(width),
    }
    return {prefix + name: parameter for name, parameter in block.items()}


def _vision_ends(vision: dict[str, Any]) -> dict[str, Parameter]:
    """The patch embedding and the merger."""
    width, patch = vision["embed_dim"], vision["patch_size"]
    merged = width * vision["spatial_merge_size"] ** 2
    patches = (vision["in_chans"], vision["temporal_patch_size"], patch, patch)
    return {
        "visual.patch_embed.proj.weight": matrix(width, *patches, gain=2.5),
        "visual.merger.ln_q.weight": vector(width, centre=1),
        "visual.merger.ln_q.bias": vector(width),
        "visual.merger.mlp.0.weight": matrix(merged, merged, gain=1.5),
        "visual.merger.mlp.0.bias": vector(merged),
        "visual.merger.mlp.2.weight": matrix(vision["hidden_size"], merged, gain=1.5),
        "visual.merger.mlp.2.bias": vector(vision["hidden_size"]),
    }


def _state_dict_name(published: str) -> str:
    """The name in the module tree of transformers 5."""
    if published.startswith("visual."):
        return "model." + published
    if published.startswith("model."):
        return "model.language_model." + published.removeprefix("model.")
    return published
