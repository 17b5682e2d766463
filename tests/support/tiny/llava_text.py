"""The text side of a tiny LLaVA: Llama 2's tokenizer as it was first converted, the chat template.

That tokenizer puts a space before every piece of text between special tokens, so what follows
`<image>` starts with one. Pieces that no test needs are left out of the vocabulary.
"""

from __future__ import annotations

from typing import Any

from support.tiny.common import added_token, merge_rules

__all__ = ["CHAT_TEMPLATE", "PINNED_IDS", "QUESTION", "SPOKEN", "tokenizer", "tokenizer_config"]

QUESTION = "What is shown in this image?"

# The chat of a picture and QUESTION, as the published model's processor tokenizes it.
PINNED_IDS = [
    *(1, 3148, 1001, 29901, 29871, *[32000] * 576, 29871, 13),
    *(5618, 338, 4318, 297, 445, 1967, 29973, 319, 1799, 9047, 13566, 29901),
]  # [595]

# Words of the pinned prompt and their ids in the published vocabulary.
_WORDS = {
    "▁US": 3148,
    "ER": 1001,
    "What": 5618,
    "▁is": 338,
    "▁shown": 4318,
    "▁in": 297,
    "▁this": 445,
    "▁image": 1967,
    "▁A": 319,
    "SS": 1799,
    "IST": 9047,
    "ANT": 13566,
}
_SIGNS = {"▁": 29871, ":": 29901, "?": 29973, ".": 29889, ",": 29892, "-": 29899}
_LETTERS = "etainorslhdcumpgfybwvkxjqzETAINORSLHDCUMPGFYBWVKXJQZ0123456789"
_SPECIALS = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 32000, "<pad>": 32001}
_LETTER_IDS = {letter: 31000 + place for place, letter in enumerate(_LETTERS)}
_SPARE_ID = 20000

# The ids that have text, bytes left out.
SPOKEN = [*_WORDS.values(), *_SIGNS.values(), *_LETTER_IDS.values()]

# Renders what the published template renders, from the same variables.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message.role != "system" -%}
        {{- message.role.upper() ~ ": " -}}
    {%- endif -%}
    {%- for part in message.content | selectattr("type", "equalto", "image") -%}
        {{- "<image>\\n" -}}
    {%- endfor -%}
    {%- for part in message.content | selectattr("type", "equalto", "text") -%}
        {%- if message.role == "assistant" -%}
            {%- generation -%}{{- part.text ~ " " -}}{%- endgeneration -%}
        {%- else -%}
            {{- part.text ~ " " -}}
        {%- endif -%}
    {%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "ASSISTANT:" -}}
{%- endif -%}
"""


def tokenizer() -> dict[str, Any]:
    """tokenizer.json, laid out as the published one."""
    vocabulary = dict(_SPECIALS) | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocabulary |= _SIGNS | _LETTER_IDS | _WORDS
    merges = merge_rules(list(_WORDS))
    for left, right in merges:
        vocabulary.setdefault(left + right, _SPARE_ID + len(vocabulary))
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(text, place) for text, place in _SPECIALS.items()],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                begin,
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<s>", "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [list(pair) for pair in merges],
        },
    }


def tokenizer_config() -> dict[str, Any]:
    """tokenizer_config.json."""
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": False,
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "<pad>",
        "padding_side": "left",
        "processor_class": "LlavaProcessor",
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }
