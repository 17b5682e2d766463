"""The text side of a tiny Qwen2-VL: words and special tokens at their real ids, the chat template.

Pieces that no test needs are left out of the vocabulary, which then has holes.
"""

from __future__ import annotations

from typing import Any, Literal

from support.tiny.common import byte_level_bpe

__all__ = ["CHAT_TEMPLATE", "PINNED_IDS", "QUESTION", "SIZE", "Tokens", "Vocabulary"]

Vocabulary = Literal["published", "small"]
"""All 151936 rows with tokens at their real ids; or 512 rows, for speed."""

# The question of the pinned prompt, and the width and height of the picture that goes with it.
QUESTION = "请描述一下图片。"
SIZE = (500, 336)

# The chat of a picture and QUESTION, as the published model's processor tokenizes it.
PINNED_IDS = [
    *(151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198),
    *(151644, 872, 198, 151652, *[151655] * 216, 151653),
    *(14880, 53481, 100158, 45930, 1773, 151645, 198),
    *(151644, 77091, 198),
]  # [242]

# Words and their ids in the published vocabulary: those of the pinned prompt, and of
# "Describe this image in detail."
_WORDS = {
    "system": 8948,
    "You": 2610,
    " are": 525,
    " a": 264,
    " helpful": 10950,
    " assistant": 17847,
    "user": 872,
    "assistant": 77091,
    "请": 14880,
    "描述": 53481,
    "一下": 100158,
    "图片": 45930,
    "。": 1773,
    "Describe": 74785,
    " this": 419,
    " image": 2168,
    " in": 304,
    " detail": 7716,
}
_SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Renders what the published template renders, from the same variables.
CHAT_TEMPLATE = """\
{%- set seen = namespace(pictures=0, videos=0) -%}
{%- macro vision(pad, label, number) -%}
    {%- if add_vision_id -%}
        {{- label ~ " " ~ number ~ ": " -}}
    {%- endif -%}
    {{- "<|vision_start|>" ~ pad ~ "<|vision_end|>" -}}
{%- endmacro -%}
{%- if messages and messages[0].role != "system" -%}
    {{- "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n" -}}
{%- endif -%}
{%- for message in messages -%}
    {{- "<|im_start|>" ~ message.role ~ "\\n" -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type == "image" or "image" in part or "image_url" in part -%}
                {%- set seen.pictures = seen.pictures + 1 -%}
                {{- vision("<|image_pad|>", "Picture", seen.pictures) -}}
            {%- elif part.type == "video" or "video" in part -%}
                {%- set seen.videos = seen.videos + 1 -%}
                {{- vision("<|video_pad|>", "Video", seen.videos) -}}
            {%- elif "text" in part -%}
                {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""


class Tokens:
    """Which ids the words and special tokens have, and the files that say so."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        small = vocabulary == "small"
        self.rows = 512 if small else 151936
        self.spare_id = 300 if small else 120000
        first_special = 480 if small else 151643
        small_words = {word: 256 + place for place, word in enumerate(_WORDS)}
        self.words = small_words if small else _WORDS
        self.specials = {name: first_special + place for place, name in enumerate(_SPECIALS)}

    @property
    def spoken(self) -> list[int]:
        """The ids that have text."""
        return [*range(256), *self.words.values()]

    def tokenizer(self) -> dict[str, Any]:
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
        return byte_level_bpe(
            words=self.words,
            specials=self.specials,
            spare_id=self.spare_id,
            pattern=_SPLIT,
            normalizer={"type": "NFC"},
            post_processor={**byte_level, "use_regex": False},
        )

    def tokenizer_config(self, *, published: bool) -> dict[str, Any]:
        config = {
            "add_prefix_space": False,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 32768,
            "pad_token": "<|endoftext|>",
            "padding_side": "left",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        }
        if not published:
            return config | {"backend": "tokenizers", "extra_special_tokens": list(_SPECIALS[1:])}
        flags = {
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        return config | {
            "added_tokens_decoder": {
                str(token_id): {"content": name, **flags}
                for name, token_id in self.specials.items()
            },
            "additional_special_tokens": list(_SPECIALS[1:]),
        }

    def generation_config(self) -> dict[str, Any]:
        end = self.specials["<|endoftext|>"]
        return {
            "bos_token_id": end,
            "pad_token_id": end,
            "do_sample": True,
            "eos_token_id": [self.specials["<|im_end|>"], end],
            "repetition_penalty": 1.0,
            "temperature": 0.01,
            "top_p": 0.001,
            "top_k": 1,
            "transformers_version": "4.37.0",
        }
