"""The demo model: transformers' Qwen2-VL class at a few million parameters, and a fast forward.

The class holds the parameters and stays the reference. `forward` computes the same function from
the same parameters for a training batch: pictures of one size, one time, so vision attention is one
batched product instead of a loop over pictures, and each weight is cast to bfloat16 once a step.
`test_model.py` compares the two.
"""

import functools

import torch
import torch.nn.functional as F
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

PATCH, MERGE, TEMPORAL = 14, 2, 2
VISION = {
    "depth": 6, "embed_dim": 192, "num_heads": 4, "mlp_ratio": 4, "hidden_act": "quick_gelu",
    "in_channels": 3, "patch_size": PATCH, "spatial_merge_size": MERGE,
    "temporal_patch_size": TEMPORAL,
}  # fmt: skip
TEXT = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
}  # fmt: skip
# Slowest frequency turns once in about 2 pi 20 positions, so that height and width, a handful of
# tokens each, move every frequency they own. Qwen2-VL's own 1e6 would leave most of them still.
ROPE_THETA = 20.0
MROPE_SECTION = [8, 12, 12]
VISION_ROPE_THETA = 10000.0
Weights = dict[str, torch.Tensor]


def config(ids: dict[str, int], vocab_size: int) -> Qwen2VLConfig:
    """The class's config. `ids` maps Qwen2-VL's special tokens to their ids."""
    rope = {"rope_type": "default", "rope_theta": ROPE_THETA, "mrope_section": MROPE_SECTION}
    text = TEXT | {
        "vocab_size": vocab_size,
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    return Qwen2VLConfig(
        text_config=text,
        vision_config=VISION | {"hidden_size": TEXT["hidden_size"]},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build(ids: dict[str, int], vocab_size: int) -> Qwen2VLForConditionalGeneration:
    return Qwen2VLForConditionalGeneration(config(ids, vocab_size))


def weights(model: torch.nn.Module, dtype: torch.dtype = torch.bfloat16) -> Weights:
    """Parameters by name, cast once; gradients flow back to the model's own."""
    return {name: p.to(dtype) for name, p in model.named_parameters()}


def text_weights(w: Weights) -> Weights:
    """The part of the weights that `decode` reads."""
    return {name: t for name, t in w.items() if name.startswith("model.language_model.")}


def encode(w: Weights, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Pictures of one size -> image features.

    patches [B, 4n, 588] in Qwen2-VL's merge-block order, one frame; grid (width, height) in tokens,
    n = width * height. Returns [B, n, D].
    """
    depth, heads, dim = VISION["depth"], VISION["num_heads"], VISION["embed_dim"]
    # A still picture is one frame given twice, so the two halves of the kernel add up.
    kernel = w["model.visual.patch_embed.proj.weight"].sum(2).flatten(1)
    x = F.linear(patches.to(kernel.dtype), kernel)
    cos, sin = (t.to(x.dtype) for t in _vision_rope(grid, dim // heads))
    for i in range(depth):
        b = f"model.visual.blocks.{i}."
        x = x + _vision_attention(w, b + "attn.", _norm(w, b + "norm1", x), cos, sin, heads)
        x = x + _vision_mlp(w, b + "mlp.", _norm(w, b + "norm2", x))
    m = "model.visual.merger."
    x = _norm(w, m + "ln_q", x).reshape(len(x), -1, MERGE * MERGE * dim)
    return _linear(w, m + "mlp.2", F.gelu(_linear(w, m + "mlp.0", x)))


def splice(w: Weights, ids: torch.Tensor, features: torch.Tensor, first: int) -> torch.Tensor:
    """Embed ids [B, T]; the image tokens, all starting at `first`, give way to features [B, n, D].

    Returns [B, T, D].
    """
    x = F.embedding(ids, w["model.language_model.embed_tokens.weight"])
    return torch.cat([x[:, :first], features, x[:, first + features.shape[1] :]], 1)


def decode(
    w: Weights, x: torch.Tensor, positions: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Embeddings [B, T, D] -> hidden states [B, T, D].

    positions [3, B, T]; bias [B, 1, T, T] is added to the scores. Its shapes are the same for every
    batch, so that it can be compiled once.
    """
    cos, sin = (t.to(x.dtype) for t in _text_rope(positions))
    for i in range(TEXT["num_hidden_layers"]):
        b = f"model.language_model.layers.{i}."
        x = x + _text_attention(w, b, _rms(w, b + "input_layernorm", x), cos, sin, bias)
        h = _rms(w, b + "post_attention_layernorm", x)
        gated = F.silu(_linear(w, b + "mlp.gate_proj", h)) * _linear(w, b + "mlp.up_proj", h)
        x = x + _linear(w, b + "mlp.down_proj", gated)
    return _rms(w, "model.language_model.norm", x)


def logits(w: Weights, hidden: torch.Tensor) -> torch.Tensor:
    return F.linear(hidden, w["model.language_model.embed_tokens.weight"])


def _linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))


def _norm(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], 1e-6)


def _rms(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], w[name + ".weight"], TEXT["rms_norm_eps"])


def _vision_mlp(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    # quick_gelu(x) = x * sigmoid(1.702 x) = silu(1.702 x) / 1.702: one kernel, scaled weights.
    h = F.linear(x, w[name + "fc1.weight"] * 1.702, w[name + "fc1.bias"] * 1.702)
    return F.linear(F.silu(h), w[name + "fc2.weight"] / 1.702, w[name + "fc2.bias"])


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate pairs (i, i + half) of the last axis; cos and sin hold one half."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Plain attention [B, H, T, d]; measured faster than the fused kernel in bfloat16 on a CPU."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    scores = scores if bias is None else scores + bias
    out = scores.softmax(-1) @ v
    return out.transpose(1, 2).flatten(2)


def _vision_attention(
    w: Weights, name: str, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int
) -> torch.Tensor:
    qkv = (
        _linear(w, name + "qkv", x).unflatten(-1, (3, heads, -1)).transpose(1, 3)
    )  # [B, H, 3, N, d]
    q, k = _rotate(qkv[:, :, :2], cos, sin).unbind(2)
    return _linear(w, name + "proj", _attend(q, k, qkv[:, :, 2], None))


def _text_attention(
    w: Weights, name: str, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    heads, groups = TEXT["num_attention_heads"], TEXT["num_key_value_heads"]
    q, k, v = (
        _linear(w, f"{name}self_attn.{p}_proj", x).unflatten(-1, (n, -1)).transpose(1, 2)
        for p, n in (("q", heads), ("k", groups), ("v", groups))
    )
    q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    k, v = (t.repeat_interleave(heads // groups, 1) for t in (k, v))
    return _linear(w, name + "self_attn.o_proj", _attend(q, k, v, bias))


@functools.cache
def _vision_rope(grid: tuple[int, int], head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin [4n, d/2]: a quarter of the head turns with the row, a quarter with the column."""
    gw, gh = grid
    rows = torch.arange(gh * MERGE)[:, None].expand(-1, gw * MERGE)
    columns = torch.arange(gw * MERGE)[None].expand(gh * MERGE, -1)
    order = (gh, MERGE, gw, MERGE)
    rows, columns = (t.reshape(order).transpose(1, 2).flatten() for t in (rows, columns))
    frequency = VISION_ROPE_THETA ** -(torch.arange(0, head_dim // 2, 2) / (head_dim // 2))
    angle = torch.cat([rows[:, None] * frequency, columns[:, None] * frequency], 1)
    return angle.cos(), angle.sin()


def _text_rope(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin [B, 1, T, d/2]: M-RoPE, each section of the frequencies turns with its own axis."""
    head_dim = TEXT["hidden_size"] // TEXT["num_attention_heads"]
    frequency = ROPE_THETA ** -(torch.arange(0, head_dim, 2) / head_dim)
    angle = positions[:, :, None, :, None] * frequency  # [3, B, 1, T, d/2]
    parts = angle.split(MROPE_SECTION, -1)
    angle = torch.cat([part[axis] for axis, part in enumerate(parts)], -1)
    return angle.cos(), angle.sin()
