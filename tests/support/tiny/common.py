"""What every tiny checkpoint is made of: random tensors, shards, a byte-level BPE tokenizer.

Knows no family. Everything here is numpy, safetensors and tokenizers, so that the export path can
be tested where torch is absent.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE

__all__ = [
    "Dtype",
    "Parameter",
    "added_token",
    "byte_alphabet",
    "byte_level_bpe",
    "embedding",
    "matrix",
    "merge_rules",
    "publish",
    "random_tensors",
    "to_bytes_text",
    "vector",
    "write_json",
]

Dtype = Literal["float32", "bfloat16", "float16"]
Json = dict[str, Any]

_NUMPY_DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}


def write_json(path: Path, value: object) -> None:
    """Write `value` as UTF-8 JSON, its text left readable."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


# --- Weights ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parameter:
    """How one tensor is drawn: `centre` + `spread` times numbers that keep away from zero."""

    shape: tuple[int, ...]
    spread: float
    centre: float = 0.0
    row_scale: NDArray[np.float32] | None = None
    """A factor for each row, [rows]."""


def matrix(*shape: int, gain: float = 1.0) -> Parameter:
    """A linear map [out, in...] that multiplies the norm of its input by about `gain`."""
    return Parameter(shape, gain / float(np.prod(shape[1:])) ** 0.5)


def vector(size: int, *, centre: float = 0.0) -> Parameter:
    """A bias, or with `centre=1` the weight of a norm."""
    return Parameter((size,), 0.2 if centre else 0.1, centre)


def embedding(rows: int, width: int, *, spoken: Iterable[int], spread: float = 0.3) -> Parameter:
    """A token table whose rows outside `spoken` are a quarter the size.

    A head made of such rows picks its maximum among the spoken ones, so random weights answer with
    tokens that have text instead of with holes of the vocabulary.
    """
    row_scale = np.full(rows, 0.25, dtype=np.float32)
    row_scale[list(spoken)] = 1.0
    return Parameter((rows, width), spread, row_scale=row_scale)


def random_tensors(
    parameters: Mapping[str, Parameter], *, seed: int, dtype: Dtype
) -> dict[str, NDArray[Any]]:
    """Draw every tensor; none holds its identity value, for biases of 0 and norms of 1 hide bugs.

    Each name has its own stream: adding or renaming a tensor leaves the others as they were.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for name, parameter in parameters.items():
        stream = np.random.default_rng([seed, zlib.crc32(name.encode())])
        values = stream.standard_normal(parameter.shape, dtype=np.float32)
        if len(parameter.shape) == 1:
            values += np.copysign(np.float32(0.25), values)  # none rounds to its identity in bf16
        values *= parameter.spread
        values += parameter.centre
        if parameter.row_scale is not None:
            values *= parameter.row_scale[:, None]
        tensors[name] = values.astype(_NUMPY_DTYPES[dtype])
    return tensors


def publish(folder: Path, tensors: Mapping[str, NDArray[Any]], *, shards: int) -> None:
    """Write one `model.safetensors`, or `shards` files of about equal size and their index."""
    names = sorted(tensors)
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return
    total = sum(tensors[name].nbytes for name in names)
    shares: list[list[str]] = [[] for _ in range(shards)]
    written = 0
    for name in names:
        shares[min(written * shards // total, shards - 1)].append(name)
        written += tensors[name].nbytes
    weight_map: dict[str, str] = {}
    shares = [share for share in shares if share]
    for number, share in enumerate(shares, start=1):
        file = f"model-{number:05d}-of-{len(shares):05d}.safetensors"
        part = {name: tensors[name] for name in share}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(share, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


# --- Tokenizers ---------------------------------------------------------------------------------


def byte_alphabet() -> dict[int, str]:
    """Each byte's character in a byte-level vocabulary, in the order of their token ids.

    Bytes that print stand for themselves and come first; the others borrow characters from 256 on.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    silent = [byte for byte in range(256) if byte not in printing]
    borrowed = {byte: chr(256 + place) for place, byte in enumerate(silent)}
    return {byte: chr(byte) for byte in printing} | borrowed


def to_bytes_text(text: str) -> str:
    """`text` spelled in the byte alphabet."""
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in text.encode())


def added_token(content: str, token_id: int, *, special: bool = True, lstrip: bool = False) -> Json:
    """An entry of tokenizer.json's `added_tokens`."""
    return {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": lstrip,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def byte_level_bpe(
    *,
    words: Mapping[str, int],
    specials: Mapping[str, int],
    spare_id: int,
    pattern: str,
    normalizer: Json | None,
    post_processor: Json,
    ignore_merges: bool = False,
) -> Json:
    """A tokenizer.json in which each of `words` is one token of the id given.

    Ids may have holes: the single bytes are 0..255, and pieces that only lead up to a word take ids
    from `spare_id` on. The special tokens stand in the model's vocabulary too, for an added token
    missing there would get the *number* of entries as its id.
    """
    alphabet = byte_alphabet()
    vocabulary = {character: place for place, character in enumerate(alphabet.values())}
    vocabulary |= {to_bytes_text(word): token_id for word, token_id in words.items()}
    merges = merge_rules([to_bytes_text(word) for word in words])
    for left, right in merges:
        if left + right not in vocabulary:
            vocabulary[left + right] = spare_id
            spare_id += 1
    taken = {**vocabulary, **specials}
    if len(set(taken.values())) != len(taken):
        raise ValueError("two tokens of the tiny vocabulary share an id; move spare_id")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(content, place) for content, place in specials.items()],
        "normalizer": normalizer,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": pattern},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {**byte_level, "use_regex": False},
            ],
        },
        "post_processor": post_processor,
        "decoder": {**byte_level, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": taken,
            "merges": [list(pair) for pair in merges],
        },
    }


def merge_rules(words: list[str]) -> list[tuple[str, str]]:
    """Merges, best first, that make one piece of every word.

    A rule of one word may fire inside another and break it; the broken word then moves to the
    front, where its own rules win.
    """
    order = sorted(words, key=len, reverse=True)
    for _ in range(len(order) + 1):
        rules: list[tuple[str, str]] = []
        for word in order:
            while len(pieces := _segment(word, rules)) > 1:
                rules.append((pieces[0], pieces[1]))
        broken = next((word for word in order if len(_segment(word, rules)) > 1), None)
        if broken is None:
            return rules
        order.remove(broken)
        order.insert(0, broken)
    raise ValueError(f"no order of merges keeps all of {len(words)} words whole")


def _segment(word: str, rules: list[tuple[str, str]]) -> list[str]:
    """The pieces that byte-pair encoding by `rules` makes of `word`."""
    pieces = dict.fromkeys([*word, *(piece for a, b in rules for piece in (a, b, a + b))])
    model = BPE(vocab={piece: place for place, piece in enumerate(pieces)}, merges=rules)
    return Tokenizer(model).encode(word).tokens
