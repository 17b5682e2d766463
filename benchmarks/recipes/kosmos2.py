"""Kosmos-2: https://huggingface.co/microsoft/kosmos-2-patch14-224 (published as float32)."""

from __future__ import annotations

from typing import Any

from recipes.recipe import CLIP, Recipe
from vlrt_export.families import kosmos2

CONTROL = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 64001}
PIECES = 64002
TAGS = [
    "</doc>",
    "<image>",
    "</image>",
    "</chunk>",
    "</line>",
    "<phrase>",
    "</phrase>",
    "<object>",
    "</object>",
    "</delimiter_of_multi_objects/>",
    "<grounding>",
    *(f"<patch_index_{cell:04d}>" for cell in range(1024)),
]


def tokenizer() -> dict[str, Any]:
    """XLM-R's layout: a Unigram has no holes, so ids without a letter hold pieces never met."""
    pieces: list[list[Any]] = [[f"▁\ue000{i}", -40.0] for i in range(PIECES)]
    for text, i in CONTROL.items():
        pieces[i] = [text, 0.0]
    for i, letter in enumerate(["▁", *map(chr, range(33, 127))], start=4):
        pieces[i] = [letter, -10.0]
    flags = {"single_word": False, "rstrip": False, "normalized": False}
    added = [
        {"id": i, "content": text, **flags, "lstrip": text == "<mask>", "special": True}
        for text, i in CONTROL.items()
    ] + [
        {"id": PIECES + i, "content": text, **flags, "lstrip": True, "special": False}
        for i, text in enumerate(TAGS)
    ]
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    begin, end = ({"SpecialToken": {"id": text, "type_id": 0}} for text in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, space],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, first, end],
            "pair": [begin, first, end, end, second, end],
            "special_tokens": {
                text: {"id": text, "ids": [i], "tokens": [text]}
                for text, i in (("<s>", 0), ("</s>", 2))
            },
        },
        "decoder": space,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": False},
    }


KOSMOS_2 = Recipe(
    family=kosmos2.FAMILY,
    config={
        "architectures": ["Kosmos2ForConditionalGeneration"],
        "latent_query_num": 64,
        "model_type": "kosmos-2",
        "text_config": {
            "activation_function": "gelu",
            "attention_heads": 32,
            "bos_token_id": 0,
            "embed_dim": 2048,
            "eos_token_id": 2,
            "ffn_dim": 8192,
            "layer_norm_eps": 1e-05,
            "layers": 24,
            "max_position_embeddings": 2048,
            "model_type": "kosmos_2_text_model",
            "pad_token_id": 1,
            "scale_embedding": True,
            "vocab_size": 65037,
        },
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.35.0.dev0",
        "vision_config": {
            "hidden_act": "quick_gelu",
            "hidden_size": 1024,
            "image_size": 224,
            "intermediate_size": 4096,
            "layer_norm_eps": 1e-05,
            "model_type": "kosmos_2_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
    },
    files={
        "generation_config.json": {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
        "preprocessor_config.json": {
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_processor_type": "CLIPImageProcessor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": 224},
            "use_square_size": True,
            **CLIP,
        },
        "tokenizer_config.json": {
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": True,
            "eos_token": "</s>",
            "mask_token": "<mask>",
            "pad_token": "<pad>",
            "tokenizer_class": "XLMRobertaTokenizer",
            "unk_token": "<unk>",
        },
        "tokenizer.json": tokenizer(),
    },
    special_tokens=CONTROL,
    regex="",
    renames=(),
)
RECIPES = {"kosmos-2": KOSMOS_2}
