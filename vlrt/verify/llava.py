"""LLaVA-1.5 as transformers runs it, with the PIL image processor."""

from __future__ import annotations

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
from vlrt_runtime.errors import InputError

__all__ = ["LlavaReference", "load"]


def load(folder: Path, *, attention: Attention) -> Reference:
    """Load model and processor from a checkpoint folder."""
    transformers = optional_module("transformers")
    return LlavaReference(
        load_model(transformers.LlavaForConditionalGeneration, folder, attention=attention),
        processor=transformers.AutoProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True
        ),
    )


class LlavaReference(Reference):
    """A LLaVA checkpoint loaded into transformers."""

    def __init__(self, model: Any, *, processor: Any) -> None:
        super().__init__(model)
        self.processor = processor

    def inputs(
        self,
        messages: Sequence[Message],
        images: Sequence[Image.Image] = (),
        *,
        image_options: Mapping[str, int] | None = None,
    ) -> ReferenceInputs:
        """As the base class says; there are no image options."""
        if image_options:
            raise InputError(f"unknown image options {sorted(image_options)}: LLaVA has none")
        prompt = cast(
            "str",
            self.processor.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            ),
        )
        places = prompt.count(self.processor.image_token)
        if places != len(images):
            raise InputError(
                f"the chat has {places} places for pictures, and there are {len(images)} pictures"
            )
        made = self.processor(text=[prompt], images=list(images) or None, return_tensors="pt")
        return ReferenceInputs(
            prompt=prompt,
            token_ids=cast("list[int]", made["input_ids"][0].tolist()),
            pixel_values=[to_numpy(p) for p in made["pixel_values"]] if images else [],
            grids=[],
        )

    def run(self, inputs: ReferenceInputs, new_tokens: int) -> ReferenceRun:
        """As the base class says; features are [rows, width], without the class token."""
        seen: dict[str, Any] = {}

        def keep_projected(_: Any, args: tuple[Any, ...], made: Any) -> None:
            seen["features"], seen["projected"] = args[0], made

        def keep_spliced(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen["spliced"] = kwargs["inputs_embeds"]

        inner = self.model.model
        with hooked(
            inner.multi_modal_projector.register_forward_hook(keep_projected),
            inner.language_model.register_forward_pre_hook(keep_spliced, with_kwargs=True),
        ):
            logits = self.forward_logits(inputs)
        token_ids, finish_reason, step_logits = self.decode_greedily(inputs, new_tokens)
        return ReferenceRun(
            vision_features=_each(seen.get("features")),
            image_embeds=_each(seen.get("projected")),
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
        if inputs.pixel_values:
            arguments["pixel_values"] = torch.stack(
                [torch.from_numpy(pixels) for pixels in inputs.pixel_values]
            )
        return arguments


def _each(batch: Any) -> list[FloatArray]:
    """One array a picture."""
    return [] if batch is None else [to_numpy(rows) for rows in batch]
