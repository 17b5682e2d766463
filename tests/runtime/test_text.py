"""Text in and out: whole characters as they come, one BOS, damaged tokenizers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from support.generators import exhaust
from support.tiny.common import added_token, byte_alphabet
from vlrt_runtime.errors import InputError, PackageError
from vlrt_runtime.text import TextCodec, stream_read, stream_text

TEXTS = (
    "plain words",
    "请描述一下图片。",
    "a😀b",
    "👨‍👩‍👧 e\u0301 ñ",  # joined, and combined of two
    "\ufffd and \ufffd",  # the very character that stands for what cannot be read
    "\n\t  two  spaces ",
)
HOLE = 450  # in the range of ids, but no token


@pytest.fixture(scope="module")
def byte_level(small_package: Path) -> TextCodec:
    """Qwen2-VL's: a token for each byte, words, special tokens."""
    return TextCodec(small_package / "tokenizer.json", None)


def sentencepiece(folder: Path, *, template: bool = True) -> Path:
    """A tokenizer.json as of LLaMA 2: a leading space to strip, bytes as `<0xE8>`, a BOS added."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    letters = "abcdehinoprstuw"
    pieces += [*letters, "▁a", "请"]
    single = {"type": "Sequence", "decoders": []}
    single["decoders"] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    normalizer = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    processor = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": {
            "max_length": 4,
            "strategy": "LongestFirst",
            "stride": 0,
            "direction": "Right",
        },
        "padding": None,
        "added_tokens": [added_token(name, place) for place, name in enumerate(pieces[:3])],
        "normalizer": normalizer,
        "pre_tokenizer": None,
        "post_processor": processor if template else None,
        "decoder": single,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: place for place, piece in enumerate(pieces)},
            "merges": [["▁", "a"]],
        },
    }
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    return TextCodec(sentencepiece(tmp_path_factory.mktemp("llama")), "<s>")


@pytest.fixture(params=["byte_level", "llama"])
def codec(request: pytest.FixtureRequest) -> TextCodec:
    return request.getfixturevalue(request.param)


def byte_ids(codec: TextCodec, text: str) -> list[int]:
    """`text` one byte a token, as a model may well say it."""
    names = byte_alphabet()
    if codec.tokenizer.token_to_id("<0x00>") is not None:
        names = {byte: f"<0x{byte:02X}>" for byte in range(256)}
    ids = [codec.tokenizer.token_to_id(names[byte]) for byte in text.encode()]
    assert None not in ids
    return ids


def stream(codec: TextCodec, ids: list[int]) -> list[str]:
    def answer():
        yield from ids
        return "stop"

    collected: list[int] = []
    pieces, reason = exhaust(stream_text(codec, answer(), collected))
    assert reason == "stop"
    assert collected == ids
    return pieces


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_make_the_text(codec: TextCodec, text: str):
    ids = byte_ids(codec, text)
    pieces = stream(codec, ids)
    whole = codec.decode(ids)
    assert "".join(pieces) == whole
    assert whole.strip() == text.strip()
    assert len(pieces) > 1
    assert all(pieces)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_cut_anywhere_makes_its_text(byte_level: TextCodec, text: str):
    ids = byte_ids(byte_level, text)
    for length in range(len(ids)):
        pieces = stream(byte_level, ids[:length])
        assert "".join(pieces) == byte_level.decode(ids[:length])


@pytest.mark.parametrize(
    ("whole", "more", "text"),
    [
        ("😀", ["<0xBA>"], "😀\ufffd"),
        ("😀", ["<0xBA>", "a", "<0xF0>"], "😀\ufffda\ufffd"),
        ("é请", ["<0xE8>", "<0xAF>"], "é请\ufffd\ufffd"),
    ],
)
def test_a_byte_that_fits_nothing_takes_nothing_back(
    llama: TextCodec, whole: str, more: list[str], text: str
):
    """Decoded at once, LLaMA's tokenizer makes every byte of the run unreadable."""
    ids = byte_ids(llama, whole) + [llama.tokenizer.token_to_id(name) for name in more]
    assert "".join(stream(llama, ids)) == text
    assert llama.decode(ids).startswith("\ufffd")


def test_nothing_of_a_cut_character_shows_before_the_end(byte_level: TextCodec):
    ids = byte_ids(byte_level, "ok 😀")
    assert stream(byte_level, ids[:-1]) == ["o", "k", " ", "\ufffd"]
    assert stream(byte_level, ids) == ["o", "k", " ", "😀"]


def test_ids_without_a_token_and_special_ones_say_nothing(byte_level: TextCodec):
    special = byte_level.tokenizer.token_to_id("<|vision_start|>")
    plain = byte_ids(byte_level, "a😀b")
    assert byte_level.tokenizer.id_to_token(HOLE) is None
    for extra in (HOLE, special, 10**6):
        for place in range(len(plain) + 1):
            ids = [*plain[:place], extra, *plain[place:]]
            assert "".join(stream(byte_level, ids)) == byte_level.decode(ids)
    assert byte_level.decode([HOLE, special, *plain]) == "a😀b"
    assert byte_level.decode([special], special=True) == "<|vision_start|>"
    assert "<|vision_start|>" in byte_level.special_tokens()


def test_any_ids_at_all_stream_to_their_text(codec: TextCodec):
    draws = random.Random(0)
    most = codec.tokenizer.get_vocab_size() + 5
    for _ in range(400):
        ids = [draws.choice([draws.randrange(most), draws.randrange(256)]) for _ in range(12)]
        said = "".join(stream(codec, ids))
        if "\ufffd" not in codec.decode(ids) or codec.tokenizer.token_to_id("<0x00>") is None:
            assert said == codec.decode(ids), ids


def test_every_character_of_a_sentence_is_whole_in_its_piece(llama: TextCodec):
    words = "请 a hint 请a on a cod"
    ids = llama.encode(words, bare=True)
    assert "".join(pieces := stream(llama, ids)) == words
    assert len(pieces) >= len(ids) - 1


# ------------------------------------------------------------------ text that is read again


def test_words_that_may_still_change_wait():
    letters = "one two three four <tag>x</tag> five six seven"

    def answer():
        yield from range(len(letters))
        return "length"

    collected: list[int] = []
    pieces = list(stream_read(lambda ids: letters[: len(ids)], answer(), collected))
    assert "".join(pieces) == letters
    assert pieces[0] == "one"
    assert not any("<" in piece for piece in pieces[:-1])
    assert len(collected) == len(letters)


def test_an_answer_of_nothing_has_no_pieces(byte_level: TextCodec):
    assert stream(byte_level, []) == []
    assert list(stream_read(lambda ids: "", iter(()), [])) == []


# ------------------------------------------------------------------ ids of prompts


@pytest.mark.parametrize("text", ["a hint", "<s>a hint", "<s> a hint"])
def test_a_prompt_has_exactly_one_bos(llama: TextCodec, text: str):
    ids = llama.encode(text)
    assert ids[0] == 1
    assert ids.count(1) == 1
    assert len(ids) > 4, "the tokenizer's own truncation is off"


def test_bare_text_and_models_without_bos_get_none(llama: TextCodec, tmp_path: Path):
    assert llama.encode("a hint", bare=True) == llama.encode("a hint")[1:]
    without = TextCodec(sentencepiece(tmp_path, template=False), "<s>")
    assert 1 not in without.encode("a hint")


def test_special_tokens_in_text_are_read(byte_level: TextCodec):
    token = byte_level.tokenizer.token_to_id("<|image_pad|>")
    assert byte_level.encode("<|image_pad|>") == [token]
    assert byte_level.decode(byte_level.encode("a b")) == "a b"


def test_text_that_is_no_text_is_refused(byte_level: TextCodec):
    with pytest.raises(InputError, match="prompt: it is no valid text"):
        byte_level.encode("half a pair: \ud83d")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(PackageError, match=r"tokenizer\.json: not a tokenizer: .*; export again"):
        TextCodec(path, None)
