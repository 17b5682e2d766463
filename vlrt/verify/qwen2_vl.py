"""Qwen2-VL as transformers runs it.

The processor is put together by hand: `AutoProcessor` insists on a video processor, which needs
torchvision. Pictures go through the PIL image processor, whose pixels are the ones to match.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image

from vlrt.verify.reference import (
    Attention,
    FloatArray,
    Message,
    Reference,
    ReferenceInputs,
    ReferenceRun,
    hooked,
    load_model,
    optional_module,
    to_numpy,
)
from vlrt_runtime.errors import CheckpointError, InputError, shortlist

__all__ = ["Qwen2VLReference", "load"]


def load(folder: Path, *, attention: Attention) -> Reference:
    """Load model, tokenizer, image processor and chat template from a checkpoint folder."""
    transformers = optional_module("transformers")
    return Qwen2VLReference(
        load_model(transformers.Qwen2VLForConditionalGeneration, folder, attention=attention),
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True),
        image_processor=transformers.AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True
        ),
        chat_template=_chat_template(folder),
    )


class Qwen2VLReference(Reference):
    """A Qwen2-VL checkpoint loaded into transformers."""

    def __init__(
        self, model: Any, *, tokenizer: Any, image_processor: Any, chat_template: str
    ) -> None:
        super().__init__(model)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.chat_template = chat_template

    def inputs(
        self,
        messages: Sequence[Message],
        images: Sequence[Image.Image] = (),
        *,
        image_options: Mapping[str, int] | None = None,
    ) -> ReferenceInputs:
        """As the base class says; the image options are `min_pixels` and `max_pixels`."""
        prompt = cast(
            "str",
            self.tokenizer.apply_chat_template(
                list(messages),
                chat_template=self.chat_template,
                tokenize=False,
                add_generation_prompt=True,
            ),
        )
        pixel_values, grids = self._prepare_pictures(images, image_options or {})
        image_id = cast("int", self.model.config.image_token_id)
        short_ids = cast("list[int]", self.tokenizer(prompt, add_special_tokens=False).input_ids)
        if short_ids.count(image_id) != len(images):
            raise InputError(
                f"the chat has {short_ids.count(image_id)} places for pictures, "
                f"and there are {len(images)} pictures"
            )
        merge = cast("int", self.model.config.vision_config.spatial_merge_size)
        counts = iter([rows * columns * frames // merge**2 for frames, rows, columns in grids])
        token_ids: list[int] = []
        for token_id in short_ids:
            token_ids += [token_id] * (next(counts) if token_id == image_id else 1)
        return ReferenceInputs(
            prompt=prompt, token_ids=token_ids, pixel_values=pixel_values, grids=grids
        )

    def run(self, inputs: ReferenceInputs, new_tokens: int) -> ReferenceRun:
        """As the base class says; features are [patches, width] in the order of the patches."""
        seen: dict[str, Any] = {}

        def keep_merged(_: Any, args: tuple[Any, ...], merged: Any) -> None:
            seen["features"], seen["merged"] = args[0], merged

        def keep_spliced(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen["spliced"] = kwargs["inputs_embeds"]

        inner = self.model.model
        with hooked(
            inner.visual.merger.register_forward_hook(keep_merged),
            inner.language_model.register_forward_pre_hook(keep_spliced, with_kwargs=True),
        ):
            logits = self.forward_logits(inputs)
        token_ids, finish_reason, step_logits = self.decode_greedily(inputs, new_tokens)
        return ReferenceRun(
            vision_features=_split(seen.get("features"), inputs),
            image_embeds=_split(seen.get("merged"), inputs),
            inputs_embeds=to_numpy(seen["spliced"]),
            logits=logits,
            token_ids=token_ids,
            finish_reason=finish_reason,
            step_logits=step_logits,
        )

    def arguments(self, inputs: ReferenceInputs, token_ids: Sequence[int]) -> dict[str, Any]:
        """The model's keyword arguments for `token_ids` [S] with the pictures of `inputs`."""
        torch = self.torch
        ids = torch.tensor([list(token_ids)])
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if not inputs.grids:
            return arguments
        arguments["pixel_values"] = torch.cat([torch.from_numpy(a) for a in inputs.pixel_values])
        arguments["image_grid_thw"] = torch.tensor(inputs.grids)
        # Early releases of transformers 5 find the pictures by their ids and refuse this argument.
        if "mm_token_type_ids" in inspect.signature(self.model.forward).parameters:
            is_picture = ids == self.model.config.image_token_id
            arguments["mm_token_type_ids"] = is_picture.int()
        return arguments

    def _prepare_pictures(
        self, images: Sequence[Image.Image], options: Mapping[str, int]
    ) -> tuple[list[FloatArray], list[tuple[int, int, int]]]:
        """Patches [patches, 1176] and grid of each picture."""
        if unknown := options.keys() - {"min_pixels", "max_pixels"}:
            raise InputError(
                f"unknown image options {shortlist(sorted(unknown))}: "
                "expected min_pixels or max_pixels"
            )
        limits = self.image_processor.size
        size = {
            "shortest_edge": options.get("min_pixels", limits["shortest_edge"]),
            "longest_edge": options.get("max_pixels", limits["longest_edge"]),
        }
        pixel_values: list[FloatArray] = []
        grids: list[tuple[int, int, int]] = []
        for image in images:
            made = self.image_processor(images=[image], size=size, return_tensors="pt")
            pixel_values.append(to_numpy(made["pixel_values"]))
            frames, rows, columns = cast("list[int]", made["image_grid_thw"][0].tolist())
            grids.append((frames, rows, columns))
        return pixel_values, grids


def _split(rows: Any, inputs: ReferenceInputs) -> list[FloatArray]:
    """Cut `rows`, those of all pictures in one tensor, into one array a picture."""
    if rows is None:
        return []
    patches = [frames * height * width for frames, height, width in inputs.grids]
    merge = sum(patches) // len(rows)  # patches that make one row: 1 before the merger, 4 after it
    return [to_numpy(part) for part in rows.split([count // merge for count in patches])]


def _chat_template(folder: Path) -> str:
    """The template from whichever of its three places the checkpoint has it in."""
    if (jinja := folder / "chat_template.jinja").is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (file := folder / name).is_file():
            content = cast("dict[str, Any]", json.loads(file.read_text(encoding="utf-8")))
            if isinstance(template := content.get("chat_template"), str):
                return template
    raise CheckpointError(
        f"{folder} has no chat template: expected chat_template.jinja, chat_template.json, "
        "or chat_template in tokenizer_config.json"
    )
