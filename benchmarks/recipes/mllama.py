"""Llama 3.2 Vision 11B, base and Instruct: https://huggingface.co/meta-llama/Llama-3.2-11B-Vision."""

from __future__ import annotations

from recipes.recipe import CLIP, Recipe
from vlrt_export.families import mllama

REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TOKENS = {
    "begin_of_text": 128000,
    "end_of_text": 128001,
    "finetune_right_pad_id": 128004,
    "start_header_id": 128006,
    "end_header_id": 128007,
    "eom_id": 128008,
    "eot_id": 128009,
    "python_tag": 128010,
    "image": 128256,
}
STOP_IDS = [128001, 128008, 128009]
# Without the published one's system turn.
TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
{%- if message.content is string %}
{{- message.content }}
{%- else %}
{%- for part in message.content %}
{{- '<|image|>' if part.type == 'image' else part.text }}
{%- endfor %}
{%- endif %}
{{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""


def recipe(side: int) -> Recipe:
    """With tiles of so many pixels."""
    return Recipe(
        family=mllama.FAMILY,
        config={
            "architectures": ["MllamaForConditionalGeneration"],
            "image_token_index": 128256,
            "model_type": "mllama",
            "text_config": {
                "bos_token_id": 128000,
                "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
                "dropout": 0,
                "eos_token_id": STOP_IDS,
                "hidden_act": "silu",
                "hidden_size": 4096,
                "initializer_range": 0.02,
                "intermediate_size": 14336,
                "max_position_embeddings": 131072,
                "model_type": "mllama_text_model",
                "num_attention_heads": 32,
                "num_hidden_layers": 40,
                "num_key_value_heads": 8,
                "pad_token_id": 128004,
                "rms_norm_eps": 1e-05,
                "rope_scaling": {
                    "factor": 8.0,
                    "high_freq_factor": 4.0,
                    "low_freq_factor": 1.0,
                    "original_max_position_embeddings": 8192,
                    "rope_type": "llama3",
                },
                "rope_theta": 500000.0,
                "tie_word_embeddings": False,
                "torch_dtype": "bfloat16",
                "use_cache": True,
                "vocab_size": 128256,
            },
            "torch_dtype": "bfloat16",
            "transformers_version": "4.45.0.dev0",
            "vision_config": {
                "attention_heads": 16,
                "hidden_act": "gelu",
                "hidden_size": 1280,
                "image_size": side,
                "initializer_range": 0.02,
                "intermediate_layers_indices": [3, 7, 15, 23, 30],
                "intermediate_size": 5120,
                "max_num_tiles": 4,
                "model_type": "mllama_vision_model",
                "norm_eps": 1e-05,
                "num_channels": 3,
                "num_global_layers": 8,
                "num_hidden_layers": 32,
                "patch_size": 14,
                "supported_aspect_ratios": [
                    *([1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1])
                ],
                "torch_dtype": "bfloat16",
                "vision_output_dim": 7680,
            },
        },
        files={
            "generation_config.json": {
                "bos_token_id": 128000,
                "do_sample": True,
                "eos_token_id": STOP_IDS,
                "pad_token_id": 128004,
                "temperature": 0.6,
                "top_p": 0.9,
            },
            "preprocessor_config.json": {
                "do_convert_rgb": True,
                "do_normalize": True,
                "do_pad": True,
                "do_rescale": True,
                "do_resize": True,
                "image_processor_type": "MllamaImageProcessor",
                "max_image_tiles": 4,
                "resample": 2,
                "rescale_factor": 0.00392156862745098,
                "size": {"height": side, "width": side},
                **CLIP,
            },
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<|begin_of_text|>",
                "eos_token": "<|eot_id|>",
                "pad_token": "<|finetune_right_pad_id|>",
                "model_max_length": 131072,
            },
        },
        special_tokens={f"<|{name}|>": token_id for name, token_id in TOKENS.items()},
        regex=REGEX,
        renames=(
            ("language_model.", "language_model.model."),
            ("lm_head.", "language_model.lm_head."),
        ),
        template=TEMPLATE,
        embedding_rows=128264,
    )


RECIPES = {"llama-3.2-11b-vision": recipe(560), "llama-3.2-11b-vision-base": recipe(448)}
