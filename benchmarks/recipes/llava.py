"""LLaVA-1.5-7b: https://huggingface.co/llava-hf/llava-1.5-7b-hf."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recipes.recipe import CLIP, Recipe
from vlrt_export.families import llava

SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 32000, "<pad>": 32001}
TOWER = "vision_tower.vision_model"


def vit_layer(prefix: str, width: int, inner: int) -> dict[str, tuple[int, ...]]:
    """Tensors of one layer of CLIP or SigLIP: the last is published and never looked at."""
    shapes: dict[str, tuple[int, ...]] = {}
    linears = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
    linears |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    for name, shape in linears.items():
        shapes |= {f"{prefix}.{name}.weight": shape, f"{prefix}.{name}.bias": shape[:1]}
    for name in ("layer_norm1", "layer_norm2"):
        shapes |= {f"{prefix}.{name}.{part}": (width,) for part in ("weight", "bias")}
    return shapes


def tokenizer() -> dict[str, Any]:
    """Llama 2's as it was first converted: a space before every piece of text, bytes at 3..258."""
    vocab = {f"<0x{byte:02X}>": 3 + byte for byte in range(256)} | {"▁": 29871} | SPECIAL
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, **flags, "special": True} for text, i in SPECIAL.items()
        ],
        "normalizer": {
            "type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, first],
            "pair": [begin, first, second],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip],
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "byte_fallback": True,
            "vocab": vocab, "merges": [],
        },
    }  # fmt: skip


LLAVA = Recipe(
    family=llava.FAMILY,
    config={
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": 32000,
        "model_type": "llava",
        "pad_token_id": 32001,
        "projector_hidden_act": "gelu",
        "text_config": {
            "_name_or_path": "lmsys/vicuna-7b-v1.5",
            "architectures": ["LlamaForCausalLM"],
            "max_position_embeddings": 4096,
            "model_type": "llama",
            "rms_norm_eps": 1e-05,
            "torch_dtype": "float16",
            "vocab_size": 32064,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.36.0.dev0",
        "vision_config": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "model_type": "clip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
            "projection_dim": 768,
            "vocab_size": 32000,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": 32064,
    },
    files={
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 32001},
        "preprocessor_config.json": {
            "crop_size": {"height": 336, "width": 336},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_processor_type": "CLIPImageProcessor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": 336},
            **CLIP,
        },
        "tokenizer_config.json": {
            "add_bos_token": True,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
        },
        "tokenizer.json": tokenizer(),
    },
    special_tokens=SPECIAL,
    regex="",
    renames=(
        ("language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("vision_tower.", f"{TOWER}."),
    ),
    template=llava.TEMPLATE,
    extra={
        **vit_layer(f"{TOWER}.encoder.layers.23", 1024, 4096),
        **{f"{TOWER}.post_layernorm.{part}": (1024,) for part in ("weight", "bias")},
    },
)
LLAVA_13B = replace(
    LLAVA,
    config={
        **LLAVA.config,
        "text_config": {
            **LLAVA.config["text_config"],
            "_name_or_path": "lmsys/vicuna-13b-v1.5",
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_attention_heads": 40,
            "num_hidden_layers": 40,
            "num_key_value_heads": 40,
        },
    },
)
RECIPES = {"llava-1.5-7b": LLAVA, "llava-1.5-13b": LLAVA_13B}
