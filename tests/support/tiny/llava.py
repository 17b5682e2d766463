"""A tiny LLaVA-1.5: the 7B checkpoint's files, names and ids around layers of a megabyte.

Pictures are of the real size, 336 pixels and 576 rows of features, unless another is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from support.tiny.common import (
    Dtype,
    Parameter,
    embedding,
    publish,
    random_tensors,
    vector,
    write_json,
)
from support.tiny.llava_text import CHAT_TEMPLATE, SPOKEN, tokenizer, tokenizer_config
from support.tiny.parts import linear, llama_layer, prefixed, vit

__all__ = ["CLIP_NORMALIZATION", "Layout", "make_llava"]

Layout = Literal["published", "transformers5", "state_dict", "transformers4"]
"""As on the hub; as transformers 5 saves it; with names of its `state_dict()`; as 4.52 saved it."""

SEED = 55
CLIP_NORMALIZATION = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_PREFIXES = {
    "language_model.model.": ("language_model.model.", "model.language_model."),
    "language_model.lm_head.": ("language_model.lm_head.", "lm_head."),
    "vision_tower.vision_model.": ("vision_tower.", "model.vision_tower."),
    "multi_modal_projector.": ("multi_modal_projector.", "model.multi_modal_projector."),
}


def make_llava(
    folder: Path,
    *,
    seed: int = SEED,
    dtype: Dtype = "float32",
    layout: Layout = "published",
    shards: int = 2,
    template: bool = True,
    image_size: int = 336,
) -> Path:
    """Write a complete checkpoint into `folder`, which is made, and return it.

    Args:
        folder: Where to write.
        seed: Of the weights.
        dtype: Of the weights.
        layout: Which program's way of naming things to follow.
        shards: How many files of weights; a single one has no index.
        template: Whether a chat template comes with it; early revisions had none.
        image_size: Side of the pictures, in pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = _published_config(dtype, image_size)
    tensors = random_tensors(_parameters(config), seed=seed, dtype=dtype)
    publish(folder, {_spelled(name, layout): t for name, t in tensors.items()}, shards=shards)
    newer = layout in ("transformers5", "state_dict")
    write_json(folder / "config.json", _transformers5_config(config) if newer else config)
    write_json(folder / "generation_config.json", _generation_config())
    processor = {
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": 14,
        "processor_class": "LlavaProcessor",
        "vision_feature_select_strategy": "default",
    }
    if newer:  # one file for the whole processor
        processor["image_processor"] = _preprocessor_config(image_size)
    else:
        write_json(folder / "preprocessor_config.json", _preprocessor_config(image_size))
    write_json(folder / "processor_config.json", processor)
    if template and newer:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    elif template:
        write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    write_json(folder / "tokenizer.json", tokenizer())
    write_json(folder / "tokenizer_config.json", tokenizer_config())
    return folder


def _spelled(published: str, layout: Layout) -> str:
    """A tensor's name in one of the four spellings."""
    if layout == "published":
        return published
    prefix = next(prefix for prefix in _PREFIXES if published.startswith(prefix))
    if layout == "transformers4":
        old, new = prefix, _PREFIXES[prefix][1]
        if prefix.startswith("vision_tower."):
            new = "model.vision_tower.vision_model."
        return new + published.removeprefix(old)
    return _PREFIXES[prefix][layout == "state_dict"] + published.removeprefix(prefix)


def _published_config(dtype: Dtype, image_size: int) -> dict[str, Any]:
    """config.json as sparse as on the hub, but for the sizes: the published ones are defaults."""
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": 32000,
        "model_type": "llava",
        "pad_token_id": 32001,
        "projector_hidden_act": "gelu",
        "text_config": {
            "_name_or_path": "lmsys/vicuna-7b-v1.5",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 64,
            "intermediate_size": 112,
            "max_position_embeddings": 4096,
            "model_type": "llama",
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "rms_norm_eps": 1e-05,
            "torch_dtype": dtype,
            "vocab_size": 32064,
        },
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "transformers_version": "4.36.0.dev0",
        "vision_config": {
            "hidden_size": 48,
            "image_size": image_size,
            "intermediate_size": 80,
            "model_type": "clip_vision_model",
            "num_attention_heads": 3,
            "num_hidden_layers": 4,
            "patch_size": 14,
            "projection_dim": 16,
            "vocab_size": 32000,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": 32064,
    }


def _transformers5_config(config: dict[str, Any]) -> dict[str, Any]:
    """The same as transformers 5 saves it: defaults written out, rope keys gathered."""
    gone = ("torch_dtype", "vocab_size", "ignore_index", "_name_or_path")
    outer = {key: value for key, value in config.items() if key not in gone}
    dtype = config["torch_dtype"]
    rows = (config["vision_config"]["image_size"] // 14) ** 2
    outer |= {"dtype": dtype, "image_seq_length": rows, "multimodal_projector_bias": True}
    text = {key: value for key, value in config["text_config"].items() if key not in gone[:1]}
    outer["text_config"] = text | {
        "attention_bias": False,
        "bos_token_id": 1,
        "dtype": dtype,
        "eos_token_id": 2,
        "head_dim": 16,
        "hidden_act": "silu",
        "mlp_bias": False,
        "num_key_value_heads": 4,
        "pad_token_id": None,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": False,
    }
    outer["vision_config"] = config["vision_config"] | {
        "dtype": dtype,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-05,
        "num_channels": 3,
    }
    return outer


def _generation_config() -> dict[str, Any]:
    return {
        "_from_model_config": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 32001,
        "transformers_version": "4.36.0.dev0",
    }


def _preprocessor_config(side: int) -> dict[str, Any]:
    return {
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": side},
        **CLIP_NORMALIZATION,
    }


def _parameters(config: dict[str, Any]) -> dict[str, Parameter]:
    """Every tensor of the checkpoint under its published name."""
    text, vision = config["text_config"], config["vision_config"]
    hidden = text["hidden_size"]
    table = embedding(text["vocab_size"], hidden, spoken=SPOKEN)
    parameters = {
        "language_model.model.embed_tokens.weight": table,
        "language_model.model.norm.weight": vector(hidden, centre=1),
        "language_model.lm_head.weight": table,
    }
    for layer in range(text["num_hidden_layers"]):
        parameters |= prefixed(f"language_model.model.layers.{layer}.", llama_layer(text))
    projector = linear("linear_1", hidden, vision["hidden_size"])
    projector |= linear("linear_2", hidden, hidden)
    parameters |= prefixed("multi_modal_projector.", projector)
    return parameters | prefixed("vision_tower.vision_model.", vit(vision, clip=True))
