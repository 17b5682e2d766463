"""A tiny llama-3-vision-alpha: names and ids of the published parts around layers of a megabyte.

Pictures are of the real size, 384 pixels and 729 rows of features, unless another is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray
from safetensors.numpy import save_file

from support.tiny.common import (
    Dtype,
    Parameter,
    embedding,
    publish,
    random_tensors,
    vector,
    write_json,
)
from support.tiny.llama3_vision_alpha_text import Tokens, Vocabulary
from support.tiny.parts import linear, llama_layer, norm, prefixed, vit

__all__ = ["Parts", "make_alpha", "make_alpha_parts"]

SEED = 14
LLAMA3_TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] | trim }}{% endfor %}"


class Parts(NamedTuple):
    """The three places of a model in parts."""

    language_model: Path
    vision_tower: Path
    projector_file: Path


def make_alpha(
    folder: Path,
    *,
    seed: int = SEED,
    dtype: Dtype = "float32",
    vocabulary: Vocabulary = "published",
    shards: int = 2,
    image_size: int = 384,
) -> Path:
    """Write the checkpoint of one folder, which is made, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = Tokens(vocabulary)
    text, vision = _text_config(tokens, dtype), _vision_config(image_size)
    config = {
        "architectures": ["Llamavision"],
        "auto_map": {
            "AutoConfig": "configuration_llamavision.LlamavisionConfig",
            "AutoModelForCausalLM": "modeling_llamavision.Llamavision",
        },
        "model_type": "llamavision",
        "text_config": text,
        "torch_dtype": dtype,
        "vision_config": vision,
    }
    tensors = random_tensors(_parameters(text, vision, tokens), seed=seed, dtype=dtype)
    publish(folder, tensors, shards=shards)
    write_json(folder / "config.json", config)
    _write_text_files(folder, tokens)
    write_json(folder / "preprocessor_config.json", _preprocessor_config(image_size))
    return folder


def make_alpha_parts(
    folder: Path, *, seed: int = SEED, vocabulary: Vocabulary = "published"
) -> Parts:
    """The same weights as three parts: a language model, a whole SigLIP and a projector's file."""
    tokens = Tokens(vocabulary)
    text, vision = _text_config(tokens, "float32"), _vision_config()
    tensors = random_tensors(_parameters(text, vision, tokens), seed=seed, dtype="float32")

    def part(prefix: str) -> dict[str, NDArray[Any]]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    base, tower = folder / "language_model", folder / "vision_tower"
    base.mkdir(parents=True)
    tower.mkdir()
    publish(base, part("text_model."), shards=2)
    write_json(base / "config.json", text | {"architectures": ["LlamaForCausalLM"]})
    _write_text_files(base, tokens)
    write_json(
        base / "tokenizer_config.json",
        tokens.tokenizer_config() | {"chat_template": LLAMA3_TEMPLATE},
    )
    captions = {
        "logit_bias": Parameter((1,), 1.0),
        "logit_scale": Parameter((1,), 1.0),
        **norm("text_model.final_layer_norm", 24),
    }
    publish(
        tower,
        part("vision_model.") | random_tensors(captions, seed=seed, dtype="float32"),
        shards=1,
    )
    write_json(
        tower / "config.json",
        {"model_type": "siglip", "text_config": {}, "vision_config": vision},
    )
    write_json(tower / "preprocessor_config.json", _preprocessor_config())
    projector = folder / "mm_projector.safetensors"
    named = {k: v for k, v in tensors.items() if k.startswith("mm_projector.")}
    save_file(named, projector)
    return Parts(base, tower, projector)


def _text_config(tokens: Tokens, dtype: Dtype) -> dict[str, Any]:
    return {
        "attention_bias": False,
        "bos_token_id": tokens.specials["<|begin_of_text|>"],
        "eos_token_id": tokens.stop_ids[0],
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 112,
        "max_position_embeddings": 8192,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "vocab_size": tokens.rows,
    }


def _vision_config(image_size: int = 384) -> dict[str, Any]:
    """As sparse as SigLIP's on the hub."""
    return {
        "hidden_size": 48,
        "image_size": image_size,
        "intermediate_size": 80,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 3,
        "num_hidden_layers": 4,
        "patch_size": 14,
    }


def _preprocessor_config(side: int = 384) -> dict[str, Any]:
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "SiglipProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": side, "width": side},
    }


def _write_text_files(folder: Path, tokens: Tokens) -> None:
    write_json(folder / "tokenizer.json", tokens.tokenizer())
    write_json(folder / "tokenizer_config.json", tokens.tokenizer_config())
    first = tokens.specials["<|begin_of_text|>"]
    generation = {"bos_token_id": first, "eos_token_id": tokens.stop_ids}
    write_json(folder / "generation_config.json", generation)


def _parameters(
    text: dict[str, Any], vision: dict[str, Any], tokens: Tokens
) -> dict[str, Parameter]:
    """Every tensor under its name in the one-folder checkpoint."""
    hidden, width, inner = text["hidden_size"], vision["hidden_size"], vision["intermediate_size"]
    table = embedding(text["vocab_size"], hidden, spoken=tokens.spoken)
    parameters = {
        "text_model.model.embed_tokens.weight": table,
        "text_model.model.norm.weight": vector(hidden, centre=1),
        "text_model.lm_head.weight": table,
    }
    for layer in range(text["num_hidden_layers"]):
        parameters |= prefixed(f"text_model.model.layers.{layer}.", llama_layer(text))
    projector = linear("0", hidden, width) | linear("2", hidden, hidden)
    pooling = {
        "probe": Parameter((1, 1, width), 0.5),
        "attention.in_proj_weight": Parameter((3 * width, width), 0.1),
        "attention.in_proj_bias": vector(3 * width),
        **linear("attention.out_proj", width, width),
        **norm("layernorm", width),
        **linear("mlp.fc1", inner, width),
        **linear("mlp.fc2", width, inner),
    }
    tower = vit(vision, clip=False) | prefixed("head.", pooling)
    parameters |= prefixed("mm_projector.model.", projector)
    return parameters | prefixed("vision_model.vision_model.", tower)
