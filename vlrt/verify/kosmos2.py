"""Kosmos-2 as transformers runs it, on the pixels of the PIL image processor.

It knows no chat: the text of the one message is the prompt. transformers insists on a picture;
where there is none, the language model is given the text alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image

from vlrt.verify.reference import (
    Attention,
    Message,
    Reference,
    ReferenceInputs,
    ReferenceRun,
    hooked,
    load_model,
    optional_module,
    to_numpy,
)
from vlrt_runtime.errors import InputError, shortlist

__all__ = ["Kosmos2Reference", "load"]


def load(folder: Path, *, attention: Attention) -> Reference:
    """Load model, tokenizer and image processor from a checkpoint folder."""
    transformers = optional_module("transformers")
    processor = transformers.Kosmos2Processor(
        image_processor=transformers.AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True
        ),
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True),
    )
    model = load_model(transformers.Kosmos2ForConditionalGeneration, folder, attention=attention)
    return Kosmos2Reference(model, processor=processor)


class Kosmos2Reference(Reference):
    """A Kosmos-2 checkpoint loaded into transformers."""

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
            raise InputError(f"image options {shortlist(image_options)}: Kosmos-2 has none")
        if len(messages) != 1 or len(images) > 1:
            raise InputError(
                f"{len(messages)} messages and {len(images)} pictures: "
                "expected one message and at most one picture"
            )
        content = messages[0]["content"]
        if not isinstance(content, str):
            content = "".join(
                cast("str", part["text"]) for part in content if part["type"] == "text"
            )
        made = self.processor(
            text=content, images=list(images) or None, return_tensors="pt", add_eos_token=False
        )
        pixels = [to_numpy(made["pixel_values"][0])] if images else []
        return ReferenceInputs(
            prompt=content,
            token_ids=cast("list[int]", made["input_ids"][0].tolist()),
            pixel_values=pixels,
            grids=[],
        )

    def run(self, inputs: ReferenceInputs, new_tokens: int) -> ReferenceRun:
        """As the base class says; embeddings are those before scale and positions."""
        seen: dict[str, Any] = {}

        def keep_projected(_: Any, args: tuple[Any, ...], made: tuple[Any, Any]) -> None:
            seen["features"], seen["projected"] = args[0], made[0]

        def keep_spliced(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen["spliced"] = kwargs["inputs_embeds"]

        text = self.model.text_model.model
        with hooked(
            self.model.image_to_text_projection.register_forward_hook(keep_projected),
            text.embed_positions.register_forward_pre_hook(keep_spliced, with_kwargs=True),
        ):
            logits = self.forward_logits(inputs)
        token_ids, finish_reason, step_logits = self.decode_greedily(inputs, new_tokens)
        pictures = bool(inputs.pixel_values)
        return ReferenceRun(
            vision_features=[to_numpy(seen["features"][0])] if pictures else [],
            image_embeds=[to_numpy(seen["projected"][0])] if pictures else [],
            inputs_embeds=to_numpy(seen["spliced"] / text.embed_scale),
            logits=logits,
            token_ids=token_ids,
            finish_reason=finish_reason,
            step_logits=step_logits,
        )

    def arguments(self, inputs: ReferenceInputs, token_ids: Sequence[int]) -> dict[str, Any]:
        """The model's keyword arguments for `token_ids` [S] with the picture of `inputs`."""
        torch, config = self.torch, self.model.config
        ids = torch.tensor([list(token_ids)])
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        mask = torch.zeros_like(ids)
        if inputs.pixel_values:
            arguments["pixel_values"] = torch.from_numpy(inputs.pixel_values[0])[None]
            mask[0, 2 : 2 + config.latent_query_num] = 1  # behind the start and the picture's tag
        else:
            arguments["image_embeds"] = torch.zeros(1, 0, config.text_config.embed_dim)
        return arguments | {"image_embeds_position_mask": mask}
