"""The text side of a tiny Llama 3.2 Vision: words and special tokens at real ids, the template.

Pieces that no test needs are left out of the vocabulary, which then has holes.
"""

from __future__ import annotations

from typing import Any, Literal

from support.tiny.common import byte_level_bpe

__all__ = [
    "BASE_IDS",
    "BASE_PROMPT",
    "CHAT_TEMPLATE",
    "PINNED_IDS",
    "QUESTION",
    "Tokens",
    "Vocabulary",
]

Vocabulary = Literal["published", "small"]
"""All 128256 rows with tokens at their real ids; or 512 rows, for speed."""

QUESTION = "Describe this image in detail."

# The chat of a picture and QUESTION, as the published model's processor tokenizes it with one BOS.
PINNED_IDS = [
    *(128000, 128006, 882, 128007, 271, 128256, 75885, 420, 2217, 304, 7872, 13, 128009),
    *(128006, 78191, 128007, 271),
]  # [17]

# What the base model is asked, and its ids: the picture, BOS, eleven of text.
BASE_PROMPT = "<|image|>If I had to write a haiku for this one"
BASE_IDS = [128256, 128000, 2746, 358, 1047, 311, 3350, 264, 6520, 39342, 369, 420, 832]

_WORDS = {
    "user": 882,
    "assistant": 78191,
    "\n\n": 271,
    "Describe": 75885,
    " this": 420,
    " image": 2217,
    " in": 304,
    " detail": 7872,
    "If": 2746,
    " I": 358,
    " had": 1047,
    " to": 311,
    " write": 3350,
    " a": 264,
    " ha": 6520,
    "iku": 39342,
    " for": 369,
    " one": 832,
}
# By their distance from the first.
_SPECIALS = {
    "<|begin_of_text|>": 0,
    "<|end_of_text|>": 1,
    "<|finetune_right_pad_id|>": 4,
    "<|start_header_id|>": 6,
    "<|end_header_id|>": 7,
    "<|eom_id|>": 8,
    "<|eot_id|>": 9,
    "<|python_tag|>": 10,
}
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Renders what the published template renders, from the same variables.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- macro turn(role, text) -%}
    {{- "<|start_header_id|>" ~ role ~ "<|end_header_id|>\\n\\n" ~ text -}}
{%- endmacro -%}
{%- if date_string is not defined -%}
    {%- set today = strftime_now("%d %b %Y") if strftime_now is defined else "26 Jul 2024" -%}
{%- else -%}
    {%- set today = date_string -%}
{%- endif -%}
{%- set seen = namespace(pictures=false) -%}
{%- set told = messages[0].role == "system" -%}
{%- set orders = messages[0].content | trim if told else "" -%}
{%- set turns = messages[1:] if told else messages -%}
{%- for message in turns if message.content is not string -%}
    {%- for part in message.content if part.type == "image" -%}
        {%- set seen.pictures = true -%}
    {%- endfor -%}
{%- endfor -%}
{%- if seen.pictures and orders != "" -%}
    {{- raise_exception("a system message cannot stand beside pictures") -}}
{%- endif -%}
{%- if not seen.pictures -%}
    {{- turn("system", "Cutting Knowledge Date: December 2023\\nToday Date: " ~ today) -}}
    {{- "\\n\\n" ~ orders ~ "<|eot_id|>" -}}
{%- endif -%}
{%- for message in turns -%}
    {{- turn(message.role, "") -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {{- "<|image|>" if part.type == "image" else part.text -}}
        {%- endfor -%}
    {%- endif -%}
    {{- "<|eot_id|>" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- turn("assistant", "") -}}
{%- endif -%}
"""


class Tokens:
    """Which ids the words and special tokens have, and the files that say so.

    The picture's token is the first id behind the head's rows: it is read and never written.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        small = vocabulary == "small"
        self.rows = 512 if small else 128256
        self.spare_id = 300 if small else 100000
        first_special = 480 if small else 128000
        small_words = {word: 256 + place for place, word in enumerate(_WORDS)}
        self.words = small_words if small else _WORDS
        self.specials = {name: first_special + place for name, place in _SPECIALS.items()}
        self.specials["<|image|>"] = self.rows
        self.stop_ids = [
            self.specials[f"<|{name}|>"] for name in ("end_of_text", "eom_id", "eot_id")
        ]

    @property
    def spoken(self) -> list[int]:
        """The ids that have text."""
        return [*range(256), *self.words.values()]

    def tokenizer(self, *, adds_bos: bool = True) -> dict[str, Any]:
        """tokenizer.json; the first ones published left BOS to the processor."""
        bos = "<|begin_of_text|>"
        byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
        begin = {"SpecialToken": {"id": bos, "type_id": 0}}
        text = {"Sequence": {"id": "A", "type_id": 0}}
        template = {
            "type": "TemplateProcessing",
            "single": [begin, text],
            "pair": [begin, text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [self.specials[bos]], "tokens": [bos]}},
        }
        post = {"type": "Sequence", "processors": [byte_level | {"use_regex": True}, template]}
        return byte_level_bpe(
            words=self.words,
            specials=self.specials,
            spare_id=self.spare_id,
            pattern=_SPLIT,
            normalizer=None,
            post_processor=post if adds_bos else byte_level | {"use_regex": True},
            ignore_merges=True,
        )

    def tokenizer_config(self) -> dict[str, Any]:
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        return {
            "added_tokens_decoder": {
                str(token_id): {"content": name, **flags, "special": True}
                for name, token_id in self.specials.items()
            },
            "bos_token": "<|begin_of_text|>",
            "clean_up_tokenization_spaces": True,
            "eos_token": "<|eot_id|>",
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 131072,
            "pad_token": "<|finetune_right_pad_id|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
        }

    def generation_config(self) -> dict[str, Any]:
        return {
            "bos_token_id": self.specials["<|begin_of_text|>"],
            "do_sample": True,
            "eos_token_id": self.stop_ids,
            "pad_token_id": self.specials["<|finetune_right_pad_id|>"],
            "temperature": 0.6,
            "top_p": 0.9,
            "transformers_version": "4.45.0.dev0",
        }
