"""The demo model's tokenizer: byte-level BPE of its own small language, Qwen2-VL's special tokens.

Unlike Qwen2-VL's own, it reads up to three digits as one piece, and every coordinate an answer can
hold (multiples of 10 below 1000) is one token. Ids: 0..255 bytes, then words, numbers, specials.
"""

import json
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from benchmarks.demo_model.questions import BOX_STEP, DESCRIBE
from benchmarks.demo_model.scenes import scene
from benchmarks.demo_model.shapes import COLOURS, LETTERS, SHAPES

END_OF_TEXT, USER_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
BOX_START, BOX_END = "<|box_start|>", "<|box_end|>"
SPECIAL = (
    END_OF_TEXT, USER_START, TURN_END, "<|object_ref_start|>", "<|object_ref_end|>",
    BOX_START, BOX_END, "<|quad_start|>", "<|quad_end|>",
    VISION_START, VISION_END, "<|vision_pad|>", IMAGE, VIDEO,
)  # fmt: skip
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Merges that build 10, 20 ... 990 from the right: "120" -> "1" "20" -> "120". "00" comes first, or
# "100" would become "10" "0".
_TENS = [(d, "0") for d in "0123456789"]
_HUNDREDS = [(h, t + "0") for h in "123456789" for t in "0123456789"]


def build(scenes: int = 400) -> Tokenizer:
    """Train the words' merges on the text of some scenes, then add numbers and special tokens."""
    words = Tokenizer(models.BPE())
    words.normalizer = normalizers.NFC()
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        _corpus(scenes),
        BpeTrainer(
            vocab_size=1000, min_frequency=8, initial_alphabet=alphabet, show_progress=False
        ),
    )
    state = json.loads(words.to_str())
    vocab, merges = state["model"]["vocab"], state["model"]["merges"]
    for left, right in _TENS + _HUNDREDS:
        vocab.setdefault(left + right, len(vocab))
        merges.append([left, right])
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    return tokenizer


def _corpus(scenes: int) -> Iterator[str]:
    """Questions and answers without numbers; every word of the world often enough to be a token."""
    for seed in range(scenes):
        for qa in scene(seed).qa:
            yield qa.question
            yield "),(" if qa.box else qa.answer
    for _ in range(10):
        yield from (f"{w.capitalize()} {w}" for w in COLOURS)
        yield from (f"{k.capitalize()} {k} {k}s" for k in SHAPES)
        yield from (f"letter {k}" for k in LETTERS)
        yield from DESCRIBE
        yield from ("user\n", "assistant\n", "system\n", "There is no digit. There is no letter.")


def number_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids of the coordinates 0, 10 ... 990, in order."""
    return [tokenizer.token_to_id(str(n)) for n in range(0, 1000, BOX_STEP)]
