"""A tiny Kosmos-2: the published checkpoint's files, names and ids around layers of a megabyte.

Sizes that the real model lets pass for one another differ here: widths, depths, head counts.
"""

from __future__ import annotations

import json
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
from support.tiny.kosmos2_text import ROWS, SPOKEN, tokenizer, tokenizer_config

__all__ = ["make_kosmos2"]

Layout = Literal["published", "transformers5"]
"""As on the hub, or as transformers 5 saves it; names of tensors are the same."""

SEED = 53
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def make_kosmos2(
    folder: Path,
    *,
    seed: int = SEED,
    dtype: Dtype = "float32",
    layout: Layout = "published",
    head: bool = False,
    tie: bool = True,
    clean_up: bool = True,
    shards: int = 2,
    **text_overrides: Any,
) -> Path:
    """Write a complete checkpoint into `folder`, which is made, and return it.

    Args:
        folder: Where to write.
        seed: Of the weights.
        dtype: Of the weights.
        layout: Which program's way of writing to follow.
        head: Whether the tied head is written too.
        tie: Whether the head is the embedding table.
        clean_up: What the tokenizer says of loose signs.
        shards: How many files of weights; a single one has no index.
        **text_overrides: Laid over text_config before the weights are shaped by it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(dtype)
    config["text_config"] |= text_overrides | ({} if tie else {"tie_word_embeddings": False})
    config["tie_word_embeddings"] = tie
    tensors = random_tensors(_parameters(config), seed=seed, dtype=dtype)
    if head or not tie:
        tensors["text_model.lm_head.weight"] = tensors["text_model.model.embed_tokens.weight"]
    publish(folder, tensors, shards=shards)
    published = layout == "published"
    write_json(folder / "config.json", config if published else _transformers5_config(config))
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    write_json(folder / "generation_config.json", ids)
    write_json(folder / "preprocessor_config.json", _preprocessor_config(published=published))
    # 64,002 pieces on one line: json is slow to indent them.
    pieces = json.dumps(tokenizer(), ensure_ascii=False)
    (folder / "tokenizer.json").write_text(pieces, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", tokenizer_config(clean_up=clean_up))
    return folder


def _config(dtype: Dtype) -> dict[str, Any]:
    """config.json; what the class would fill in is left to it here and there."""
    return {
        "architectures": ["Kosmos2ForConditionalGeneration"],
        "latent_query_num": 64,
        "model_type": "kosmos-2",
        "text_config": {
            "activation_function": "gelu",
            "add_cross_attention": False,
            "attention_heads": 3,
            "bos_token_id": 0,
            "embed_dim": 48,
            "eos_token_id": 2,
            "ffn_dim": 80,
            "layer_norm_eps": 1e-05,
            "layers": 3,
            "max_position_embeddings": 2048,
            "model_type": "kosmos_2_text_model",
            "pad_token_id": 1,
            "scale_embedding": True,
            "vocab_size": ROWS,
        },
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "transformers_version": "4.35.0.dev0",
        "vision_config": {
            "hidden_size": 32,
            "image_size": 224,
            "intermediate_size": 56,
            "model_type": "kosmos_2_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "patch_size": 14,
        },
    }


def _transformers5_config(config: dict[str, Any]) -> dict[str, Any]:
    """The same as transformers 5 saves it: every default written out."""
    dtype = config["torch_dtype"]
    outer = {key: value for key, value in config.items() if key != "torch_dtype"}
    text = {
        "activation_dropout": 0.0,
        "attention_dropout": 0.1,
        "dropout": 0.1,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
    }
    vision = {
        "attention_dropout": 0.0,
        "hidden_act": "quick_gelu",
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-05,
        "num_channels": 3,
    }
    return outer | {
        "dtype": dtype,
        "text_config": config["text_config"] | text | {"dtype": dtype},
        "vision_config": config["vision_config"] | vision | {"dtype": dtype},
        "transformers_version": "5.23.0",
    }


def _preprocessor_config(*, published: bool) -> dict[str, Any]:
    """preprocessor_config.json, whose `size` and `use_square_size` together mean a square."""
    common = {
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        **_CLIP,
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "Kosmos2Processor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
    }
    if published:
        return common | {"size": {"shortest_edge": 224}, "use_square_size": True}
    return common | {"size": {"height": 224, "width": 224}}


def _parameters(config: dict[str, Any]) -> dict[str, Parameter]:
    """Every tensor of the checkpoint under its published name."""
    text, vision = config["text_config"], config["vision_config"]
    width, rows = text["embed_dim"], text["vocab_size"]
    projection = {
        "dense.weight": matrix(width, vision["hidden_size"], gain=4.0),
        "dense.bias": vector(width),
        "latent_query": Parameter((config["latent_query_num"], width), 1.0),
        **_attention("x_attn.", width, gain=(1.5, 2.0)),
    }
    parameters = {
        "text_model.model.embed_tokens.weight": embedding(rows, width, spoken=SPOKEN),
        **_norm("text_model.model.layer_norm", width),
        **{f"image_to_text_projection.{name}": spec for name, spec in projection.items()},
        **_vision_ends("vision_model.model.", vision),
    }
    for layer in range(text["layers"]):
        parameters |= _text_layer(f"text_model.model.layers.{layer}.", text)
    for layer in range(vision["num_hidden_layers"]):
        parameters |= _vision_layer(f"vision_model.model.encoder.layers.{layer}.", vision)
    return parameters


def _norm(name: str, width: int) -> dict[str, Parameter]:
    return {f"{name}.weight": vector(width, centre=1), f"{name}.bias": vector(width)}


def _attention(prefix: str, width: int, *, gain: tuple[float, float]) -> dict[str, Parameter]:
    """Gains: of queries and keys, which make it sharp, and of the output."""
    sharp, output = gain
    gains = {"q_proj": sharp, "k_proj": sharp, "v_proj": 2.0, "out_proj": output}
    parameters: dict[str, Parameter] = {}
    for name, value in gains.items():
        parameters[f"{prefix}{name}.weight"] = matrix(width, width, gain=value)
        parameters[f"{prefix}{name}.bias"] = vector(width)
    return parameters


def _mlp(prefix: str, width: int, inner: int, *, gain: tuple[float, float]) -> dict[str, Parameter]:
    return {
        f"{prefix}fc1.weight": matrix(inner, width, gain=gain[0]),
        f"{prefix}fc1.bias": vector(inner),
        f"{prefix}fc2.weight": matrix(width, inner, gain=gain[1]),
        f"{prefix}fc2.bias": vector(width),
    }


def _text_layer(prefix: str, text: dict[str, Any]) -> dict[str, Parameter]:
    """Strong feed-forward parts: embeddings are so large that a weak layer repeats its token."""
    width, inner = text["embed_dim"], text["ffn_dim"]
    return {
        **_norm(f"{prefix}self_attn_layer_norm", width),
        **_attention(f"{prefix}self_attn.", width, gain=(3.0, 1.0)),
        **_norm(f"{prefix}self_attn.inner_attn_ln", width),
        **_norm(f"{prefix}final_layer_norm", width),
        **_mlp(f"{prefix}ffn.", width, inner, gain=(3.0, 10.0)),
        **_norm(f"{prefix}ffn.ffn_layernorm", inner),
    }


def _vision_layer(prefix: str, vision: dict[str, Any]) -> dict[str, Parameter]:
    width, inner = vision["hidden_size"], vision["intermediate_size"]
    return {
        **_norm(f"{prefix}layer_norm1", width),
        **_attention(f"{prefix}self_attn.", width, gain=(1.5, 1.5)),
        **_norm(f"{prefix}layer_norm2", width),
        **_mlp(f"{prefix}mlp.", width, inner, gain=(1.5, 1.5)),
    }


def _vision_ends(prefix: str, vision: dict[str, Any]) -> dict[str, Parameter]:
    """The embeddings and the norms before and behind the layers."""
    width, patch = vision["hidden_size"], vision["patch_size"]
    rows = (vision["image_size"] // patch) ** 2 + 1
    return {
        f"{prefix}embeddings.class_embedding": vector(width),
        f"{prefix}embeddings.patch_embedding.weight": matrix(width, 3, patch, patch, gain=2.5),
        f"{prefix}embeddings.position_embedding.weight": Parameter((rows, width), 0.3),
        **_norm(f"{prefix}pre_layrnorm", width),
        **_norm(f"{prefix}post_layernorm", width),
    }
