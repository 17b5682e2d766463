"""A tiny Llama 3.2 Vision: the 11B checkpoint's files, names and ids around layers of a megabyte.

Tiles are of 56 pixels: 17 rows that are filled up to 24. `rope_theta` and the scaled positions are
so small that long, short and faded waves all show in the logits.
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
from support.tiny.mllama_text import CHAT_TEMPLATE, Tokens, Vocabulary
from support.tiny.parts import linear, llama_layer, norm, prefixed

__all__ = ["Layout", "make_mllama"]

Layout = Literal["published", "transformers5", "state_dict"]
"""As on the hub; as transformers 5 saves it; the latter with the names of its `state_dict()`."""

SEED = 0
RATIOS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
CLIP_NORMALIZATION = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def make_mllama(
    folder: Path,
    *,
    seed: int = SEED,
    dtype: Dtype = "float32",
    layout: Layout = "published",
    vocabulary: Vocabulary = "published",
    shards: int = 2,
    adds_bos: bool = True,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
) -> Path:
    """Write a complete checkpoint into `folder`, which is made, and return it.

    Args:
        folder: Where to write.
        seed: Of the weights.
        dtype: Of the weights.
        layout: Which program's way of naming things to follow.
        vocabulary: The real ids, or few.
        shards: How many files of weights; a single one has no index.
        adds_bos: Whether the tokenizer does; the first one published did not.
        text: Laid over text_config before the weights are shaped by it.
        vision: Laid over vision_config likewise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = Tokens(vocabulary)
    config = _published_config(tokens, dtype)
    config["text_config"] |= text or {}
    config["vision_config"] |= vision or {}
    tensors = random_tensors(_parameters(config, tokens), seed=seed, dtype=dtype)
    if layout == "state_dict":
        tensors = {_state_dict_name(name): tensor for name, tensor in tensors.items()}
    publish(folder, tensors, shards=shards)
    published = layout == "published"
    write_json(folder / "config.json", config if published else _transformers5_config(config))
    write_json(folder / "generation_config.json", tokens.generation_config())
    side = config["vision_config"]["image_size"]
    write_json(folder / "preprocessor_config.json", _preprocessor_config(side))
    write_json(folder / "tokenizer.json", tokens.tokenizer(adds_bos=adds_bos))
    write_json(folder / "tokenizer_config.json", tokens.tokenizer_config())
    if published:
        write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    else:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return folder


def _published_config(tokens: Tokens, dtype: Dtype) -> dict[str, Any]:
    return {
        "architectures": ["MllamaForConditionalGeneration"],
        "image_token_index": tokens.specials["<|image|>"],
        "model_type": "mllama",
        "text_config": {
            "bos_token_id": tokens.specials["<|begin_of_text|>"],
            "cross_attention_layers": [1, 4],
            "dropout": 0,
            "eos_token_id": tokens.stop_ids,
            "hidden_act": "silu",
            "hidden_size": 64,
            "initializer_range": 0.02,
            "intermediate_size": 112,
            "max_position_embeddings": 131072,
            "model_type": "mllama_text_model",
            "num_attention_heads": 4,
            "num_hidden_layers": 6,
            "num_key_value_heads": 2,
            "pad_token_id": tokens.specials["<|finetune_right_pad_id|>"],
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
                "rope_type": "llama3",
            },
            "rope_theta": 500.0,
            "tie_word_embeddings": False,
            "torch_dtype": dtype,
            "use_cache": True,
            "vocab_size": tokens.rows,
        },
        "torch_dtype": dtype,
        "transformers_version": "4.45.0.dev0",
        "vision_config": {
            "attention_heads": 3,
            "hidden_act": "gelu",
            "hidden_size": 48,
            "image_size": 56,
            "initializer_range": 0.02,
            "intermediate_layers_indices": [1, 3],
            "intermediate_size": 80,
            "max_num_tiles": 4,
            "model_type": "mllama_vision_model",
            "norm_eps": 1e-05,
            "num_channels": 3,
            "num_global_layers": 2,
            "num_hidden_layers": 4,
            "patch_size": 14,
            "supported_aspect_ratios": RATIOS,
            "torch_dtype": dtype,
            "vision_output_dim": 144,
        },
    }


def _transformers5_config(config: dict[str, Any]) -> dict[str, Any]:
    """The same as transformers 5 saves it: rope keys gathered, dtypes renamed."""
    text, vision = dict(config["text_config"]), dict(config["vision_config"])
    dtype = config["torch_dtype"]
    text["rope_parameters"] = {"rope_theta": text.pop("rope_theta"), **text.pop("rope_scaling")}
    for part in (text, vision):
        part["dtype"] = part.pop("torch_dtype")
    outer = {
        "architectures": config["architectures"],
        "dtype": dtype,
        "image_token_index": config["image_token_index"],
        "model_type": config["model_type"],
        "transformers_version": "5.23.0",
    }
    return outer | {"text_config": text, "vision_config": vision}


def _preprocessor_config(side: int) -> dict[str, Any]:
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_processor_type": "MllamaImageProcessor",
        "max_image_tiles": 4,
        "processor_class": "MllamaProcessor",
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": side, "width": side},
        **CLIP_NORMALIZATION,
    }


def _parameters(config: dict[str, Any], tokens: Tokens) -> dict[str, Parameter]:
    """Every tensor of the checkpoint under its published name."""
    text, vision = config["text_config"], config["vision_config"]
    hidden, rows = text["hidden_size"], text["vocab_size"]
    table = embedding(rows + 8, hidden, spoken=[*tokens.spoken, tokens.rows])
    head = embedding(rows, hidden, spoken=tokens.spoken)
    parameters = {
        "language_model.model.embed_tokens.weight": table,
        "language_model.model.norm.weight": vector(hidden, centre=1),
        "language_model.lm_head.weight": head,
        **linear("multi_modal_projector", hidden, vision["vision_output_dim"]),
    }
    for i in range(text["num_hidden_layers"]):
        crosses = i in text["cross_attention_layers"]
        layer = _cross_layer(text) if crosses else llama_layer(text)
        parameters |= prefixed(f"language_model.model.layers.{i}.", layer)
    return parameters | prefixed("vision_model.", _vision(vision))


def _cross_layer(text: dict[str, Any]) -> dict[str, Parameter]:
    """A Llama layer whose attention looks at pictures, with its norms and gates."""
    head = text["hidden_size"] // text["num_attention_heads"]
    layer = {
        name.replace("self_attn.", "cross_attn."): parameter
        for name, parameter in llama_layer(text).items()
    }
    return layer | {
        # Large: what a token looks at then depends on the token.
        "cross_attn.q_norm.weight": Parameter((head,), 0.3, 2.0),
        "cross_attn.k_norm.weight": Parameter((head,), 0.3, 2.0),
        "cross_attn_attn_gate": _gate(),
        "cross_attn_mlp_gate": _gate(),
    }


def _gate() -> Parameter:
    return Parameter((1,), 0.2, 0.3)


def _vision(vision: dict[str, Any]) -> dict[str, Parameter]:
    width, side, tiles = vision["hidden_size"], vision["patch_size"], vision["max_num_tiles"]
    tokens, sets = (vision["image_size"] // side) ** 2 + 1, len(RATIOS) + 1
    parameters = {
        "patch_embedding.weight": matrix(width, vision["num_channels"], side, side, gain=2.5),
        "class_embedding": Parameter((width,), 0.5),
        "gated_positional_embedding.embedding": Parameter((tokens, width), 0.5),
        "gated_positional_embedding.gate": _gate(),
        "gated_positional_embedding.tile_embedding.weight": Parameter(
            (sets, tiles * tokens * width), 0.5
        ),
        **norm("layernorm_pre", width),
        **norm("layernorm_post", width),
    }
    for place in ("pre", "post"):
        name = f"{place}_tile_positional_embedding"
        parameters[f"{name}.embedding.weight"] = Parameter((sets, tiles * width), 0.5)
        parameters[f"{name}.gate"] = _gate()
    for tower, count in (
        ("transformer", "num_hidden_layers"),
        ("global_transformer", "num_global_layers"),
    ):
        for i in range(vision[count]):
            layer = _vision_layer(vision, gated=tower != "transformer")
            parameters |= prefixed(f"{tower}.layers.{i}.", layer)
    return parameters


def _vision_layer(vision: dict[str, Any], *, gated: bool) -> dict[str, Parameter]:
    width, inner = vision["hidden_size"], vision["intermediate_size"]
    layer = {
        **norm("input_layernorm", width),
        **norm("post_attention_layernorm", width),
        **linear("mlp.fc1", inner, width),
        **linear("mlp.fc2", width, inner),
    }
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        layer[f"self_attn.{name}.weight"] = matrix(width, width, gain=1.5)
    return layer | ({"gate_attn": _gate(), "gate_ffn": _gate()} if gated else {})


def _state_dict_name(published: str) -> str:
    """The name in the module tree of transformers 5."""
    if published.startswith("language_model.lm_head."):
        return published.removeprefix("language_model.")
    return "model." + published.replace("language_model.model.", "language_model.", 1)
