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

from vlrt_export.checkpoint import DTYPES, Tensor
from vlrt_export.families import qwen2_vl
from vlrt_export.weights import Precision, Weights

SHARD_BYTES = 4 << 30
BLOCK = 1 << 24  # elements of the block of random numbers
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


@dataclass(frozen=True)
class Recipe:
    """A published checkpoint: its files' content, and how graph names become published ones."""

    family: Any
    config: dict[str, Any]
    files: dict[str, dict[str, Any]]
    special_tokens: dict[str, int]
    regex: str
    renames: tuple[tuple[str, str], ...]
    template: str


@dataclass(frozen=True)
class Recorder(Weights):
    """Weights that take note of what is asked for, and have everything."""

    asked: dict[str, tuple[int, ...]] | None = None

    def take(self, name: str, shape: Any) -> Tensor:
        full = self.prefix + name
        assert self.asked is not None
        self.asked[full] = tuple(shape)
        return Tensor(full, Path(), 0, DTYPES["BF16"], tuple(shape))


def shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Published name -> shape of every tensor, in the order that the graphs ask for them."""
    family, asked = recipe.family, {}
    config = family.config(recipe.config)
    hidden = config.decoder.hidden_size
    asked[family.embedding] = (config.decoder.vocab_size, hidden)
    for make in family.graphs.values():
        make(Recorder(None, {}, Precision(), asked=asked), config)  # type: ignore[arg-type]
    published = {}
    for name, shape in asked.items():
        for old, new in recipe.renames:
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        published[name] = shape
    return published


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


# ------------------------------------------------------------------------------------ recipes

QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_TOKENS = [
    "endoftext",
    "im_start",
    "im_end",
    "object_ref_start",
    "object_ref_end",
    "box_start",
    "box_end",
    "quad_start",
    "quad_end",
    "vision_start",
    "vision_end",
    "vision_pad",
    "image_pad",
    "video_pad",
]
QWEN2_TEMPLATE = """\
{%- for message in messages %}
{%- if loop.first and message.role != 'system' %}
{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string %}
{{- message.content }}
{%- else %}
{%- for part in message.content %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text }}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}"""
QWEN2_VL_2B = Recipe(
    family=qwen2_vl.FAMILY,
    config={
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "vision_token_id": 151654,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "hidden_act": "silu",
        "hidden_size": 1536,
        "initializer_range": 0.02,
        "intermediate_size": 8960,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "model_type": "qwen2_vl",
        "num_attention_heads": 12,
        "num_hidden_layers": 28,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": 32,
            "embed_dim": 1280,
            "mlp_ratio": 4,
            "num_heads": 16,
            "in_chans": 3,
            "hidden_size": 1536,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        "vocab_size": 151936,
    },
    files={
        "generation_config.json": {
            "bos_token_id": 151643,
            "pad_token_id": 151643,
            "do_sample": True,
            "eos_token_id": [151645, 151643],
            "repetition_penalty": 1.0,
            "temperature": 0.01,
            "top_k": 1,
            "top_p": 0.001,
        },
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            **CLIP,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer",
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 32768,
        },
    },
    special_tokens={f"<|{name}|>": 151643 + i for i, name in enumerate(QWEN2_TOKENS)},
    regex=QWEN2_REGEX,
    renames=(("language_model.", "model."),),
    template=QWEN2_TEMPLATE,
)
QWEN2_VL_7B = replace(
    QWEN2_VL_2B,
    config={
        **QWEN2_VL_2B.config,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "vocab_size": 152064,
        "vision_config": {**QWEN2_VL_2B.config["vision_config"], "hidden_size": 3584},
    },
)
RECIPES = {"qwen2-vl-2b": QWEN2_VL_2B, "qwen2-vl-7b": QWEN2_VL_7B}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="of the decoder, where fewer are enough")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    recipe, started = RECIPES[args.name], time.perf_counter()
    if args.layers:
        recipe = replace(recipe, config={**recipe.config, "num_hidden_layers": args.layers})
    args.folder.mkdir(parents=True, exist_ok=False)
    _dump(args.folder / "config.json", recipe.config)
    for name, content in recipe.files.items():
        _dump(args.folder / name, content)
    _dump(args.folder / "chat_template.json", {"chat_template": recipe.template})
    write_tokenizer(args.folder, recipe)
    size = write_weights(args.folder, shapes(recipe), args.seed)
    seconds = time.perf_counter() - started
    print(f"{args.folder}: {size / 2e9:.3f} B parameters, {size / 1e9:.2f} GB in {seconds:.0f} s")


if __name__ == "__main__":
    main()
