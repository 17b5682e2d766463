"""Parameters of what several families are built from: Llama's decoder, CLIP's and SigLIP's tower.

Names are those of the modules themselves; the makers put a prefix before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.tiny.common import Parameter, matrix, vector

__all__ = ["linear", "llama_layer", "norm", "prefixed", "vit"]


def prefixed(prefix: str, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """The same under longer names."""
    return {prefix + name: parameter for name, parameter in parameters.items()}


def linear(name: str, rows: int, columns: int, *, gain: float = 1.5) -> dict[str, Parameter]:
    """A matrix and its bias."""
    return {f"{name}.weight": matrix(rows, columns, gain=gain), f"{name}.bias": vector(rows)}


def norm(name: str, width: int) -> dict[str, Parameter]:
    """A layer norm's weight and bias."""
    return {f"{name}.weight": vector(width, centre=1), f"{name}.bias": vector(width)}


def llama_layer(text: Mapping[str, Any]) -> dict[str, Parameter]:
    """One layer, without biases."""
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    heads = text["num_attention_heads"]
    keys = hidden // heads * text.get("num_key_value_heads", heads)
    return {
        "input_layernorm.weight": vector(hidden, centre=1),
        "post_attention_layernorm.weight": vector(hidden, centre=1),
        "self_attn.q_proj.weight": matrix(hidden, hidden, gain=1.5),
        "self_attn.k_proj.weight": matrix(keys, hidden, gain=1.5),
        "self_attn.v_proj.weight": matrix(keys, hidden, gain=2.5),
        "self_attn.o_proj.weight": matrix(hidden, hidden, gain=2.5),
        "mlp.gate_proj.weight": matrix(inner, hidden, gain=2.0),
        "mlp.up_proj.weight": matrix(inner, hidden, gain=2.0),
        "mlp.down_proj.weight": matrix(hidden, inner, gain=2.0),
    }


def vit(vision: Mapping[str, Any], *, clip: bool) -> dict[str, Parameter]:
    """A whole tower, down to the last norm; CLIP's, or else SigLIP's without its pooling head."""
    width, inner, side = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    patches = (vision["image_size"] // side) ** 2
    parameters = {
        "embeddings.patch_embedding.weight": matrix(width, 3, side, side, gain=2.5),
        "embeddings.position_embedding.weight": Parameter((patches + clip, width), 0.5),
        **norm("post_layernorm", width),
    }
    if clip:
        parameters["embeddings.class_embedding"] = Parameter((width,), 0.5)
        parameters |= norm("pre_layrnorm", width)
    else:
        parameters["embeddings.patch_embedding.bias"] = vector(width)
    for number in range(vision["num_hidden_layers"]):
        layer = norm("layer_norm1", width) | norm("layer_norm2", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layer |= linear(f"self_attn.{name}", width, width)
        layer |= linear("mlp.fc1", inner, width) | linear("mlp.fc2", width, inner)
        parameters |= prefixed(f"encoder.layers.{number}.", layer)
    return parameters
