"""llama-3-vision-alpha as its published code runs it, put together from transformers' classes.

transformers has no class of it: SigLIP's features go through two linear layers and take the place
of `<image>` among the embeddings of a Llama.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from PIL import Image

from vlrt.verify.reference import (
    Attention,
    FloatArray,
    Message,
    Reference,
    ReferenceInputs,
    ReferenceRun,
    optional_module,
    to_numpy,
)
from vlrt_runtime.errors import CheckpointError, InputError

__all__ = ["AlphaReference", "load"]

MARK, IMAGE_TOKEN = "<image>", -200
HEADER = "<|start_header_id|>{role}<|end_header_id|>\n\n"


def load(folder: Path, *, attention: Attention) -> Reference:
    """Load the three parts from the folder of a whole checkpoint."""
    transformers, torch = optional_module("transformers"), optional_module("torch")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text_config = transformers.LlamaConfig(**config["text_config"])
    vision_config = transformers.SiglipVisionConfig(**config["vision_config"])
    for part in (text_config, vision_config):
        part._attn_implementation = attention
    hidden = text_config.hidden_size
    text = transformers.LlamaForCausalLM(text_config)
    vision = transformers.SiglipVisionModel(vision_config)
    projector = torch.nn.Sequential(
        torch.nn.Linear(vision_config.hidden_size, hidden),
        torch.nn.GELU(),
        torch.nn.Linear(hidden, hidden),
    )
    # transformers 5 took the inner `vision_model` out of the class, not out of the files.
    wrapped = any(name.startswith("vision_model.") for name in vision.state_dict())
    tower = "vision_model." if wrapped else "vision_model.vision_model."
    modules = {"text_model.": text, tower: vision, "mm_projector.model.": projector}
    _load_weights(folder, modules)
    text.generation_config.eos_token_id = _stop_ids(folder)
    return AlphaReference(
        text.eval(),
        vision=vision.eval(),
        projector=projector.eval(),
        tokenizer=transformers.PreTrainedTokenizerFast.from_pretrained(folder),
        image_processor=transformers.AutoImageProcessor.from_pretrained(folder, backend="pil"),
    )


class AlphaReference(Reference):
    """The three parts; `model` is the language model."""

    def __init__(
        self, model: Any, *, vision: Any, projector: Any, tokenizer: Any, image_processor: Any
    ) -> None:
        super().__init__(model)
        self.vision, self.projector = vision, projector
        self.tokenizer, self.image_processor = tokenizer, image_processor

    def inputs(
        self,
        messages: Sequence[Message],
        images: Sequence[Image.Image] = (),
        *,
        image_options: Mapping[str, int] | None = None,
    ) -> ReferenceInputs:
        """As the base class says; there are no image options."""
        if image_options:
            raise InputError(f"unknown image options {sorted(image_options)}: there are none")
        turns = [HEADER.format(role=m["role"]) + _words(m) + "<|eot_id|>" for m in messages]
        prompt = "".join(turns) + HEADER.format(role="assistant")
        chunks = [cast("list[int]", self.tokenizer(c).input_ids) for c in prompt.split(MARK)]
        if len(chunks) != 2 or len(images) != 1:
            raise InputError(
                f"the chat has {len(chunks) - 1} places for pictures, and there are {len(images)} "
                "pictures; expected one of each"
            )
        made = self.image_processor(images=list(images), return_tensors="np")["pixel_values"]
        rows = self.vision.config.image_size // self.vision.config.patch_size
        token_ids = [*chunks[0], *[IMAGE_TOKEN] * rows**2, *chunks[1][1:]]
        return ReferenceInputs(
            prompt=prompt, token_ids=token_ids, pixel_values=list(made), grids=[]
        )

    def run(self, inputs: ReferenceInputs, new_tokens: int) -> ReferenceRun:
        """As the base class says; features are [rows, width]."""
        with self.torch.no_grad():
            features = self._features(inputs)
            embeds = self.projector(features)[0]
            spliced = self._spliced(inputs, inputs.token_ids)
        token_ids, finish_reason, step_logits = self.decode_greedily(inputs, new_tokens)
        return ReferenceRun(
            vision_features=[to_numpy(features[0])],
            image_embeds=[to_numpy(embeds)],
            inputs_embeds=to_numpy(spliced),
            logits=self.forward_logits(inputs),
            token_ids=token_ids,
            finish_reason=finish_reason,
            step_logits=step_logits,
        )

    def arguments(self, inputs: ReferenceInputs, token_ids: Sequence[int]) -> dict[str, Any]:
        """The language model's keyword arguments: embeddings with the picture spliced in."""
        with self.torch.no_grad():
            embeds = self._spliced(inputs, token_ids)
        mask = self.torch.ones(embeds.shape[:2], dtype=self.torch.long)
        return {"inputs_embeds": embeds, "attention_mask": mask}

    def decode_greedily(
        self, inputs: ReferenceInputs, new_tokens: int
    ) -> tuple[list[int], Literal["stop", "length"], FloatArray]:
        """As the base class; from embeddings, `generate` gives the new ids alone."""
        made = self.model.generate(
            **self.arguments(inputs, inputs.token_ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        chosen = cast("list[int]", made.sequences[0].tolist())
        step_logits = to_numpy(self.torch.cat(made.scores))
        if chosen[-1] in self.model.generation_config.eos_token_id:
            return chosen[:-1], "stop", step_logits
        return chosen, "length", step_logits

    def _features(self, inputs: ReferenceInputs) -> Any:
        pixels = self.torch.from_numpy(inputs.pixel_values[0])[None]
        return self.vision(pixels, output_hidden_states=True).hidden_states[-2]

    def _spliced(self, inputs: ReferenceInputs, token_ids: Sequence[int]) -> Any:
        ids = self.torch.tensor(list(token_ids))
        embeds = self.model.get_input_embeddings()(ids.clamp(min=0))
        embeds[ids == IMAGE_TOKEN] = self.projector(self._features(inputs))[0]
        return embeds[None]


def _words(message: Message) -> str:
    """A message's parts as text."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(MARK if part["type"] == "image" else part["text"] for part in content)


def _stop_ids(folder: Path) -> list[int]:
    path = folder / "generation_config.json"
    given: Any = json.loads(path.read_text(encoding="utf-8"))["eos_token_id"]
    return cast("list[int]", given if isinstance(given, list) else [given])


def _load_weights(folder: Path, modules: Mapping[str, Any]) -> None:
    """Fills the modules, refusing weights that do not fit exactly."""
    load_file = optional_module("safetensors.torch").load_file
    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    for prefix, module in modules.items():
        part = {
            name.removeprefix(prefix): tensor.float()
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        try:
            module.load_state_dict(part)
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: {prefix}*: {error}") from error
