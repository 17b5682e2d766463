"""Qwen2-VL's videos as transformers computes them, given the patches and their grid.

transformers' own video processor needs torchvision; its patches are transcribed here from its
formula, with Pillow's resize in the place of torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from support.pictures import checker, picture
from vlrt.verify.reference import to_numpy

__all__ = ["TOKENS", "Expected", "clip", "published_patches"]

TOKENS = 20  # to generate
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def clip(count: int, width: int = 100, height: int = 70) -> list[Image.Image]:
    """Frames whose checks grow: no two alike."""
    return [
        Image.blend(picture(width, height), checker(width, height, cell=5 + n), 0.5)
        for n in range(count)
    ]


def published_patches(
    frames: Sequence[Image.Image], low: int, high: int
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The formula of `Qwen2VLVideoProcessor`, step by step: patches and grid."""
    height, width = smart_resize(
        frames[0].height, frames[0].width, factor=28, min_pixels=low, max_pixels=high
    )
    resized = [np.asarray(f.resize((width, height), Image.Resampling.BICUBIC)) for f in frames]
    video = np.stack(resized).astype(np.float64) * (1 / 255)
    video = ((video.astype(np.float32) - MEAN) / STD).transpose(0, 3, 1, 2)  # T, C, H, W
    if len(video) % 2:
        video = np.concatenate([video, video[-1:]])
    grid = len(video) // 2, height // 14, width // 14
    cut = video.reshape(grid[0], 2, 3, grid[1] // 2, 2, 14, grid[2] // 2, 2, 14)
    return cut.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(math.prod(grid), -1), grid


class Expected:
    """What transformers makes of a chat, stage by stage."""

    def __init__(
        self,
        reference: Any,
        messages: Sequence[dict[str, Any]],
        *,
        min_pixels: int,
        max_pixels: int,
    ) -> None:
        model = reference.model
        config, inner = model.config, model.model
        given: dict[str, list[tuple[np.ndarray, tuple[int, int, int]]]] = {"image": [], "video": []}
        self.order: list[tuple[str, int]] = []
        for message in messages:
            for each in message["content"]:
                if (kind := each["type"]) == "text":
                    continue
                frames = each[kind] if kind == "video" else [each[kind]]
                self.order.append((kind, len(given[kind])))
                given[kind].append(published_patches(frames, min_pixels, max_pixels))
        prompt = reference.tokenizer.apply_chat_template(
            list(messages),
            chat_template=reference.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        pads = {"image": config.image_token_id, "video": config.video_token_id}
        counts = {pads[kind]: iter([len(p) // 4 for p, _ in some]) for kind, some in given.items()}
        self.token_ids: list[int] = []
        for token in reference.tokenizer(prompt, add_special_tokens=False).input_ids:
            self.token_ids += [token] * (next(counts[token]) if token in counts else 1)
        ids = torch.tensor([self.token_ids])
        types = (ids == pads["image"]).int() + 2 * (ids == pads["video"]).int()
        arguments: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": types,
        }
        names = {"image": "pixel_values", "video": "pixel_values_videos"}
        self.features, self.projected = {}, {}
        for kind, some in given.items():
            if not some:
                continue
            patches = torch.from_numpy(np.concatenate([patches for patches, _ in some]))
            grids = torch.tensor([grid for _, grid in some])
            arguments |= {names[kind]: patches, f"{kind}_grid_thw": grids}
            with torch.no_grad():
                seen = inner.visual(patches, grid_thw=grids)
            sizes = [len(patches) for patches, _ in some]
            self.features[kind] = seen.last_hidden_state.split(sizes)
            self.projected[kind] = seen.pooler_output.split([size // 4 for size in sizes])
        self.given = given
        spliced: dict[str, Any] = {}
        hook = inner.language_model.register_forward_pre_hook(
            lambda _, __, kwargs: spliced.update(kwargs), with_kwargs=True
        )
        with torch.no_grad():
            self.logits = to_numpy(model(**arguments, use_cache=False).logits[0])
        hook.remove()
        self.embeds = to_numpy(spliced["inputs_embeds"])
        grids = {name: arguments.get(name) for name in ("image_grid_thw", "video_grid_thw")}
        positions, delta = inner.get_rope_index(ids, types, **grids)
        self.positions, self.delta = positions[:, 0].numpy(), int(delta)
        made = model.generate(
            **arguments,
            max_new_tokens=TOKENS,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            return_dict_in_generate=True,
            output_scores=True,
        )
        stops = model.generation_config.eos_token_id
        chosen = made.sequences[0, len(self.token_ids) :].tolist()
        self.chosen = chosen[:-1] if chosen[-1] in stops else chosen
        best = torch.cat(made.scores).topk(2).values
        self.margin = float((best[:, 0] - best[:, 1]).min())
