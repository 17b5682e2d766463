"""Llama 3.2 Vision as transformers runs it, with the PIL image processor.

The encoder's intermediate features are moved back by one layer: transformers takes what comes out
of the layers that the configuration names, the weights were trained with what goes into them.
"""

from __future__ import annotations

import importlib
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

__all__ = ["MllamaReference", "load"]


def load(folder: Path, *, attention: Attention) -> Reference:
    """Load model and processor from a checkpoint folder."""
    transformers = optional_module("transformers")
    model = load_model(transformers.MllamaForConditionalGeneration, folder, attention=attention)
    vision = model.model.vision_model
    vision.intermediate_layers_indices = [i - 1 for i in vision.intermediate_layers_indices]
    processor = transformers.AutoProcessor.from_pretrained(
        folder, backend="pil", local_files_only=True
    )
    return MllamaReference(model, processor=processor)


class MllamaReference(Reference):
    """A Llama 3.2 Vision checkpoint loaded into transformers; `grids` count tiles."""

    def __init__(self, model: Any, *, processor: Any) -> None:
        super().__init__(model)
        self.processor = processor
        self._rules: Any = importlib.import_module("transformers.models.mllama.processing_mllama")

    def inputs(
        self,
        messages: Sequence[Message],
        images: Sequence[Image.Image] = (),
        *,
        image_options: Mapping[str, int] | None = None,
    ) -> ReferenceInputs:
        """As the base class says; there are no image options."""
        if image_options:
            raise InputError(f"unknown image options {sorted(image_options)}: Mllama has none")
        prompt = cast(
            "str",
            self.processor.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            ),
        )
        return self.raw_inputs(prompt, images)

    def raw_inputs(self, prompt: str, images: Sequence[Image.Image] = ()) -> ReferenceInputs:
        """A prompt that is text already; it gets one BOS, where the processor puts it."""
        processor = self.processor
        text = self._rules.build_string_from_input(
            prompt, processor.bos_token, processor.image_token
        )
        token_ids = cast("list[int]", processor.tokenizer(text, add_special_tokens=False).input_ids)
        if (places := token_ids.count(processor.image_token_id)) != len(images):
            raise InputError(
                f"the chat has {places} places for pictures, and there are {len(images)} pictures"
            )
        pixel_values: list[FloatArray] = []
        grids: list[tuple[int, int, int]] = []
        ratios = cast("list[list[int]]", self.model.config.vision_config.supported_aspect_ratios)
        for image in images:
            made = processor.image_processor(images=[image], return_tensors="pt")
            pixel_values.append(to_numpy(made["pixel_values"][0, 0]))
            rows, columns = ratios[int(made["aspect_ratio_ids"][0, 0]) - 1]
            grids.append((1, rows, columns))
        return ReferenceInputs(
            prompt=text, token_ids=token_ids, pixel_values=pixel_values, grids=grids
        )

    def run(self, inputs: ReferenceInputs, new_tokens: int) -> ReferenceRun:
        """As the base class says.

        Features are [tiles * rows, width]. `image_embeds` are, a picture, keys and values of the
        cross-attention layers in turn, [2 * layers, heads, tiles * rows, head_dim].
        """
        seen: dict[str, Any] = {}

        def keep_features(_: Any, args: tuple[Any, ...], made: Any) -> None:
            seen["features"] = made.last_hidden_state[0]

        def keep_embeds(_: Any, args: tuple[Any, ...], made: Any) -> None:
            seen["embeds"] = made

        inner = self.model.model
        crosses = cast("list[int]", inner.language_model.cross_attention_layers)
        torch = self.torch
        with (
            hooked(
                inner.vision_model.register_forward_hook(keep_features),
                inner.language_model.embed_tokens.register_forward_hook(keep_embeds),
            ),
            torch.no_grad(),
        ):
            made = self.model(**self.arguments(inputs, inputs.token_ids), use_cache=True)
        states: list[FloatArray] = []
        if inputs.grids:
            layers = [made.past_key_values.layers[i] for i in crosses]
            both = torch.cat([part for layer in layers for part in (layer.keys, layer.values)])
            states = [to_numpy(part) for part in both.chunk(len(inputs.grids), dim=2)]
        token_ids, finish_reason, step_logits = self.decode_greedily(inputs, new_tokens)
        return ReferenceRun(
            vision_features=[to_numpy(f.flatten(0, 1)) for f in seen.get("features", [])],
            image_embeds=states,
            inputs_embeds=to_numpy(seen["embeds"]),
            logits=to_numpy(made.logits[0]),
            token_ids=token_ids,
            finish_reason=finish_reason,
            step_logits=step_logits,
        )

    def arguments(self, inputs: ReferenceInputs, token_ids: Sequence[int]) -> dict[str, Any]:
        """The model's keyword arguments for `token_ids` [S] with the pictures of `inputs`."""
        torch, rules = self.torch, self._rules
        ids = torch.tensor([list(token_ids)])
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if not inputs.grids:
            return arguments
        config = self.model.config.vision_config
        tiles = [rows * columns for _, rows, columns in inputs.grids]
        most = cast("int", config.max_num_tiles)
        # Rows behind the prompt look at what its last row does.
        spans = rules.get_cross_attention_token_mask(
            inputs.token_ids, self.processor.image_token_id
        )
        length = len(inputs.token_ids)
        dense = rules.convert_sparse_cross_attention_mask_to_dense([spans], [tiles], most, length)
        mask = torch.from_numpy(dense)
        after = mask[:, -1:].expand(-1, len(token_ids) - length, -1, -1)
        ratios = [list(grid[1:]) for grid in inputs.grids]
        known = cast("list[list[int]]", config.supported_aspect_ratios)
        return arguments | {
            "pixel_values": torch.stack([torch.from_numpy(p) for p in inputs.pixel_values])[None],
            "aspect_ratio_ids": torch.tensor([[known.index(ratio) + 1 for ratio in ratios]]),
            "aspect_ratio_mask": torch.tensor([[[int(i < n) for i in range(most)] for n in tiles]]),
            "cross_attention_mask": torch.cat([mask, after], dim=1),
        }
