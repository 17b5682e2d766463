"""llama-3-vision-alpha: https://huggingface.co/qresearch/llama-3-vision-alpha-hf."""

from __future__ import annotations

from recipes.llava import vit_layer
from recipes.mllama import REGEX
from recipes.recipe import Recipe
from vlrt_export.families import llama3_vision_alpha

SPECIAL = {
    "<|begin_of_text|>": 128000,
    "<|end_of_text|>": 128001,
    "<|start_header_id|>": 128006,
    "<|end_header_id|>": 128007,
    "<|eot_id|>": 128009,
}
TOWER = "vision_model.vision_model"
WIDTH, INNER = 1152, 4304


def pooling_head() -> dict[str, tuple[int, ...]]:
    """SigLIP's attention pooling, which is published and never looked at."""
    vectors = {
        "attention.in_proj_bias": 3 * WIDTH,
        "attention.out_proj.bias": WIDTH,
        "layernorm.weight": WIDTH,
        "layernorm.bias": WIDTH,
        "mlp.fc1.bias": INNER,
        "mlp.fc2.bias": WIDTH,
    }
    return {name: (size,) for name, size in vectors.items()} | {
        "probe": (1, 1, WIDTH),
        "attention.in_proj_weight": (3 * WIDTH, WIDTH),
        "attention.out_proj.weight": (WIDTH, WIDTH),
        "mlp.fc1.weight": (INNER, WIDTH),
        "mlp.fc2.weight": (WIDTH, INNER),
    }


ALPHA = Recipe(
    family=llama3_vision_alpha.FAMILY,
    config={
        "architectures": ["Llamavision"],
        "model_type": "llamavision",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "bos_token_id": 128000,
            "eos_token_id": 128001,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "vocab_size": 128256,
        },
        "torch_dtype": "float16",
        "vision_config": {
            "hidden_size": WIDTH,
            "image_size": 384,
            "intermediate_size": INNER,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
        },
    },
    files={
        "generation_config.json": {"bos_token_id": 128000, "eos_token_id": [128001, 128009]},
        "preprocessor_config.json": {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": 384, "width": 384},
        },
        "tokenizer_config.json": {
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    },
    special_tokens=SPECIAL,
    regex=REGEX,
    renames=(
        ("language_model.", "text_model.model."),
        ("lm_head.", "text_model.lm_head."),
        ("vision_tower.", f"{TOWER}."),
        ("mm_projector.", "mm_projector.model."),
    ),
    extra={
        **vit_layer(f"{TOWER}.encoder.layers.26", WIDTH, INNER),
        **{f"{TOWER}.post_layernorm.{part}": (WIDTH,) for part in ("weight", "bias")},
        **{f"{TOWER}.head.{name}": shape for name, shape in pooling_head().items()},
    },
)
RECIPES = {"llama-3-vision-alpha": ALPHA}
