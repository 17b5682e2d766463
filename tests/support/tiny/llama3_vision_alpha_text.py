"""The text side of a tiny llama-3-vision-alpha: words and special tokens at their real ids.

Pieces that no test needs are left out of the vocabulary, which then has holes. No chat template
comes with it: the published code puts the prompt together itself.
"""

from __future__ import annotations

from typing import Any, Literal

from support.tiny.common import byte_level_bpe

__all__ = ["GRID_PROMPT", "QUESTION", "QUESTION_IDS", "Tokens", "Vocabulary"]

Vocabulary = Literal["published", "small"]
"""All 128256 rows with tokens at their real ids; or 1024 rows, for speed."""

QUESTION = "Describe this image in detail."
# Before the picture (-200), and after it.
QUESTION_IDS = [
    *(128000, 128006, 882, 128007, 271, -200),
    *(75885, 420, 2217, 304, 7872, 13, 128009, 128006, 78191, 128007, 271),
]

# As long as the question that the model's published example asks: 113 ids after the picture.
GRID_PROMPT = (
    "You are responsible for determining the direction an agent should move based on its current"
    " position and target position. Follow these guidelines:\n- The agent must reach the target"
    " position.\n- Respond with a single word: 'up', 'down', 'right', or 'left'. Do not use"
    " punctuation or extra explanations.\n- The agent can go through obstacles.- The agent's color"
    " is blue, the target color is red, and the obstacles' color is green.\nChoose one single word:"
    " 'up', 'down', 'right', or 'left'."
)

_WORDS = {
    **{"user": 882, "assistant": 78191, "\n\n": 271, "Describe": 75885, " this": 420},
    **{" image": 2217, " in": 304, " detail": 7872, "You": 2675, " are": 527, " responsible": 8647},
    **{" for": 369, " determining": 26679, " the": 279, " direction": 5216, " an": 459},
    **{" agent": 8479, " should": 1288, " move": 3351, " based": 3196, " on": 389, " its": 1202},
    **{" current": 1510, " position": 2361, " and": 323, " target": 2218, " Follow": 11359},
    **{" these": 1521, " guidelines": 17959, ":\n": 512, " The": 578, " must": 2011},
    **{" reach": 5662, ".\n": 627, " Respond": 40633, " with": 449, " a": 264, " single": 3254},
    **{" word": 3492, " '": 364, "up": 455, "',": 518, "down": 2996, "right": 1315, " or": 477},
    **{"left": 2414, "'.": 4527, " Do": 3234, " not": 539, " use": 1005, " punctuation": 62603},
    **{" extra": 5066, " explanations": 41941, " can": 649, " go": 733, " through": 1555},
    **{" obstacles": 32116, ".-": 12898, "'s": 596, " color": 1933, " is": 374, " blue": 6437},
    **{" red": 2579, " green": 6307, "Choose": 25017, " one": 832},
}
# By their distance from the first.
_SPECIALS = {
    "<|begin_of_text|>": 0,
    "<|end_of_text|>": 1,
    "<|start_header_id|>": 6,
    "<|end_header_id|>": 7,
    "<|eot_id|>": 9,
}
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokens:
    """Which ids the words and special tokens have, and the files that say so."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        small = vocabulary == "small"
        self.rows = 1024 if small else 128256
        self.spare_id = 400 if small else 100000
        first_special = 1000 if small else 128000
        small_words = {word: 256 + place for place, word in enumerate(_WORDS)}
        self.words = small_words if small else _WORDS
        self.specials = {name: first_special + place for name, place in _SPECIALS.items()}
        self.stop_ids = [self.specials["<|end_of_text|>"], self.specials["<|eot_id|>"]]

    @property
    def spoken(self) -> list[int]:
        """The ids that have text."""
        return [*range(256), *self.words.values()]

    def tokenizer(self) -> dict[str, Any]:
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
        return byte_level_bpe(
            words=self.words,
            specials=self.specials,
            spare_id=self.spare_id,
            pattern=_SPLIT,
            normalizer=None,
            post_processor={
                "type": "Sequence",
                "processors": [byte_level | {"use_regex": True}, template],
            },
            ignore_merges=True,
        )

    def tokenizer_config(self) -> dict[str, Any]:
        return {
            "bos_token": "<|begin_of_text|>",
            "clean_up_tokenization_spaces": True,
            "eos_token": "<|eot_id|>",
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 1000000000000000019884624838656,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
