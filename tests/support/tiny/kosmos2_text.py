"""The text side of a tiny Kosmos-2: a Unigram of fairseq's layout, the words of the tests' pins.

Unigram knows no holes: ids that no test needs hold pieces that no text contains.
"""

from __future__ import annotations

from typing import Any

from support.tiny.common import added_token

__all__ = [
    "CAPTION",
    "PATCHES",
    "PINNED_ANSWER_IDS",
    "PINNED_PROMPTS",
    "PROMPT",
    "SPOKEN",
    "TAGS",
    "tokenizer",
    "tokenizer_config",
]

PROMPT = "<grounding>An image of"
# What the published model says to PROMPT about the snowman of its example, as ids.
PINNED_ANSWER_IDS = [
    *(64007, 10, 43867, 64008, 64009, 64057, 64876, 64010, 5950, 597, 32),
    *(64007, 10, 646, 64008, 64009, 64018, 64924, 64010, 4),
]
# The same as text, tags included, behind PROMPT.
CAPTION = (
    "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044>"
    "<patch_index_0863></object> warming himself by<phrase> a fire</phrase><object>"
    "<patch_index_0005><patch_index_0911></object>"
)
# Texts and the ids that the published processor makes of them, with `add_eos_token`.
PINNED_PROMPTS = {
    "<grounding> <phrase> Two puppies </phrase> sit in a field of grass.": [
        *(0, 64012, 64007, 1264, 17772, 64008, 1357, 12, 10, 770, 9, 4464, 4, 2)
    ],
    "<grounding> <phrase> Two puppies </phrase> <object> <patch_index_0079> <patch_index_1016> "
    "</object> sit in a field of grass.": [
        *(0, 64012, 64007, 1264, 17772, 64008, 64009, 64092, 65029, 64010),
        *(1357, 12, 10, 770, 9, 4464, 4, 2),
    ],
}

_WORDS = {
    ".": 4,
    "▁the": 5,
    ",": 6,
    "s": 7,
    "▁and": 8,
    "▁of": 9,
    "▁a": 10,
    "▁in": 12,
    "▁is": 17,
    "▁by": 32,
    "▁this": 38,
    ":": 55,
    "▁": 106,
    "▁himself": 597,
    "▁fire": 646,
    "▁An": 712,
    "▁field": 770,
    "▁Two": 1264,
    "▁sit": 1357,
    "▁image": 1648,
    "▁snow": 1842,
    "▁detail": 3391,
    "▁grass": 4464,
    "▁warming": 5950,
    "▁puppies": 17772,
    "▁campfire": 30879,
    "▁snowman": 43867,
}
_CONTROL = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 64001}
_PIECES = 64002
_LETTERS = "abcdefghijklmnopqrtuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!?;'\"-()/<>_"
_FIRST_LETTER = 63000

TAGS = {
    name: _PIECES + place
    for place, name in enumerate(
        (
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
        )
    )
}
PATCHES = {f"<patch_index_{cell:04d}>": 64013 + cell for cell in range(1024)}
ROWS = 64013 + len(PATCHES)

# The ids that have text: answers of random weights are made of them.
SPOKEN = [*_WORDS.values(), *TAGS.values(), *range(64013, 64013 + 1024, 41)]


def _pieces() -> list[list[Any]]:
    """Every piece with its log probability: words before letters, the rest never."""
    pieces = [[f"▁\ue000{place}", -40.0] for place in range(_PIECES)]
    for name, place in _CONTROL.items():
        pieces[place] = [name, 0.0]
    for place, letter in enumerate(_LETTERS, start=_FIRST_LETTER):
        pieces[place] = [letter, -12.0]
    for word, place in _WORDS.items():
        pieces[place] = [word, -8.0]
    return pieces


def _added() -> list[dict[str, Any]]:
    control = [
        added_token(name, place, lstrip=name == "<mask>") for name, place in _CONTROL.items()
    ]
    tags = {**TAGS, **PATCHES}
    return control + [
        added_token(name, place, special=False, lstrip=True) for name, place in tags.items()
    ]


def tokenizer() -> dict[str, Any]:
    metaspace = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "always",
        "split": True,
    }
    start, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(),
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, first, end],
            "pair": [start, first, end, end, second, end],
            "special_tokens": {
                name: {"id": name, "ids": [_CONTROL[name]], "tokens": [name]}
                for name in ("<s>", "</s>")
            },
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": _pieces(), "byte_fallback": False},
    }


def tokenizer_config(*, clean_up: bool) -> dict[str, Any]:
    keys = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {
        "added_tokens_decoder": {
            str(token["id"]): {key: token[key] for key in keys} for token in _added()
        },
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": clean_up,
        "cls_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "<pad>",
        "processor_class": "Kosmos2Processor",
        "sep_token": "</s>",
        "tokenizer_class": "XLMRobertaTokenizer",
        "unk_token": "<unk>",
    }
