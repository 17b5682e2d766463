"""Writes a full-size checkpoint: a family's published configuration, random weights, a tokenizer.

    python benchmarks/make_checkpoint.py qwen2-vl-2b /tmp/qwen2-vl-2b

For measuring export and run where the real weights are not at hand: shapes, dtypes, names and
special token ids are the published ones; what the model says is noise. The weights are one block
of normal numbers, read from ever other places: writing them takes as long as the disk does.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from recipes import RECIPES
from recipes.recipe import Recipe

from vlrt_export.checkpoint import DTYPES, Tensor
from vlrt_export.families import replace_prefix
from vlrt_export.weights import Precision, Weights

SHARD_BYTES = 4 << 30
BLOCK = 1 << 24  # elements of the block of random numbers


@dataclass(frozen=True)
class Recorder(Weights):
    """Weights that take note of what is asked for, and have everything."""

    asked: dict[str, tuple[int, ...]] | None = None

    def take(self, name: str, shape: Any) -> Tensor:
        full = self.prefix + name
        assert self.asked is not None
        self.asked[full] = tuple(shape)
        return Tensor(full, Path(), 0, DTYPES["BF16"], tuple(shape))

    def drop(self, name: str) -> None:
        """Nobody says what shapes have that are left out: recipes do."""


def shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Published name -> shape of every tensor, in the order that the graphs ask for them."""
    family, asked = recipe.family, {}
    config = family.config(recipe.config)
    hidden = config.decoder.hidden_size
    rows = recipe.embedding_rows or config.decoder.vocab_size
    asked[family.embedding] = (rows, hidden)
    for make in family.graphs.values():
        make(Recorder(None, {}, Precision(), asked=asked), config)  # type: ignore[arg-type]
    published = {replace_prefix(name, recipe.renames): shape for name, shape in asked.items()}
    return published | dict(recipe.extra)


def write_weights(folder: Path, tensors: dict[str, tuple[int, ...]], seed: int) -> int:
    """Writes bfloat16 shards and their index; returns the bytes of all tensors."""
    rng = np.random.default_rng(seed)
    noise = (rng.standard_normal(BLOCK, np.float32) * 0.02).astype(ml_dtypes.bfloat16)
    shards = list(_shards(tensors))
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header, end = {}, 0
        for name in names:
            start, end = end, end + 2 * math.prod(tensors[name])
            header[name] = {
                "dtype": "BF16", "shape": list(tensors[name]), "data_offsets": [start, end]
            }  # fmt: skip
            weight_map[name] = file
        text = json.dumps(header).encode()
        text = text.ljust(-(-len(text) // 8) * 8)
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                _write_tensor(out, name, tensors[name], noise, rng)
    total = sum(2 * math.prod(shape) for shape in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _dump(folder / "model.safetensors.index.json", index)
    return total


def _write_tensor(out: Any, name: str, shape: tuple[int, ...], noise: Any, rng: Any) -> None:
    if len(shape) == 1 and name.endswith(".weight"):  # a norm's: around one
        values = 1 + 0.1 * rng.standard_normal(shape, np.float32)
        out.write(values.astype(ml_dtypes.bfloat16).tobytes())
        return
    left = math.prod(shape)
    while left:
        start = int(rng.integers(0, BLOCK // 2))
        piece = noise[start : start + left]
        out.write(piece.view(np.uint8).data)
        left -= len(piece)


def _shards(tensors: dict[str, tuple[int, ...]]) -> Iterator[list[str]]:
    names, size = list[str](), 0
    for name, shape in tensors.items():
        if names and size + 2 * math.prod(shape) > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += 2 * math.prod(shape)
    yield names


def write_tokenizer(folder: Path, recipe: Recipe) -> None:
    """A byte-level BPE: a token per byte at the published ids, one merge, the special tokens.

    Its vocabulary has holes, as BPE may: ids are the published ones without 150,000 words.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    vocab = {letters[byte]: i for i, byte in enumerate([*printable, *others])}
    vocab["th"] = 339
    added = [
        {
            "id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }
        for text, i in recipe.special_tokens.items()
    ]  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    split = {
        "type": "Split", "pattern": {"Regex": recipe.regex}, "behavior": "Isolated", "invert": False
    }  # fmt: skip
    _dump(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {
                "type": "Sequence", "pretokenizers": [split, level | {"use_regex": False}]
            },
            "post_processor": level | {"use_regex": False},
            "decoder": level | {"use_regex": False},
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False,
                "continuing_subword_prefix": "", "end_of_word_suffix": "", "byte_fallback": False,
                "vocab": vocab | recipe.special_tokens, "merges": [["t", "h"]],
            },
        },
    )  # fmt: skip


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def shortened(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The same with a decoder of fewer layers."""
    text = config.get("text_config", config)
    text = {**text, "layers" if "layers" in text else "num_hidden_layers": layers}
    if "cross_attention_layers" in text:
        text["cross_attention_layers"] = [i for i in text["cross_attention_layers"] if i < layers]
    return {**config, "text_config": text} if "text_config" in config else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="of the decoder, where fewer are enough")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    recipe, started = RECIPES[args.name], time.perf_counter()
    if args.layers:
        recipe = replace(recipe, config=shortened(recipe.config, args.layers))
    args.folder.mkdir(parents=True, exist_ok=False)
    _dump(args.folder / "config.json", recipe.config)
    for name, content in recipe.files.items():
        _dump(args.folder / name, content)
    if recipe.template is not None:
        _dump(args.folder / "chat_template.json", {"chat_template": recipe.template})
    if "tokenizer.json" not in recipe.files:
        write_tokenizer(args.folder, recipe)
    size = write_weights(args.folder, shapes(recipe), args.seed)
    seconds = time.perf_counter() - started
    print(f"{args.folder}: {size / 2e9:.3f} B parameters, {size / 1e9:.2f} GB in {seconds:.0f} s")


if __name__ == "__main__":
    main()
