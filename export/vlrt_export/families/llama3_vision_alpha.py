"""llama-3-vision-alpha: https://huggingface.co/qresearch/llama-3-vision-alpha-hf.

vision_encoder: SigLIP's last layer but one, all rows.  projector: a two-layer MLP, row by row.
decoder: Llama 3. Published as one folder, or as a projector for a language model and a SigLIP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlrt_export.checkpoint import Checkpoint
from vlrt_export.config import decoder_config, llama_text, require, square_parameters
from vlrt_export.families import Family, Runtime
from vlrt_export.layers.llama import DecoderConfig, LlamaDecoder
from vlrt_export.layers.picture import PictureEncoder, PictureProjector
from vlrt_export.layers.vit import SIGLIP, ViTConfig
from vlrt_export.weights import Weights
from vlrt_runtime.errors import CheckpointError

FEATURE_LAYER = -2  # fixed in the model's code, no key of config.json
IMAGE_TOKEN = -200  # stands for the picture among the ids; no row of the table
# Llama 3's turns end with the second, which not every config.json names.
STOPS = ("<|end_of_text|>", "<|eot_id|>")
HALF = (0.5, 0.5, 0.5)
# The checkpoints' own template, where there is one, is Llama 3's, which knows no pictures.
TEMPLATE = """\
{%- for message in messages -%}
    {{- "<|start_header_id|>" ~ message.role ~ "<|end_header_id|>\\n\\n" -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {{- "<image>" if part.type == "image" else part.text -}}
        {%- endfor -%}
    {%- endif -%}
    {{- "<|eot_id|>" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" -}}
{%- endif -%}
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """config.json's two parts, by their own names."""

    decoder: DecoderConfig
    vision: ViTConfig

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Config:
        """From config.json of one folder, or what stands for it where the parts are apart."""
        vision = require(config, "vision_config")
        vision = vision.get("vision_config") or vision  # of a whole SigLIP
        kind = vision.get("model_type", "siglip_vision_model")
        if kind != "siglip_vision_model":
            raise CheckpointError(
                f"config.json: vision_config.model_type {kind!r}, expected siglip_vision_model"
            )
        return cls(
            decoder=decoder_config(llama_text(config)),
            vision=SIGLIP.updated(vision),
        )


def vision_encoder(weights: Weights, config: Config) -> PictureEncoder:
    """SigLIP up to the layer that is looked at."""
    return PictureEncoder(weights.at("vision_tower"), config.vision, output=FEATURE_LAYER)


def projector(weights: Weights, config: Config) -> PictureProjector:
    """Features to rows of the decoder's width."""
    hidden = config.decoder.hidden_size
    sizes = (config.vision.hidden_size, hidden, hidden)
    return PictureProjector(weights.at("mm_projector"), ("0", "2"), sizes, "gelu")


def decoder(weights: Weights, config: Config) -> LlamaDecoder:
    """The language model."""
    return LlamaDecoder(weights.at("language_model"), weights, config.decoder)


def canonical(name: str) -> str | None:
    """`vision_tower.*`, `mm_projector.*`, `language_model.*` and `lm_head.*`."""
    if name.endswith(("rotary_emb.inv_freq", "position_ids")):
        return None
    if re.match(r"vision_model\.(text_model|logit_scale|logit_bias)\b", name):
        return None  # of a whole SigLIP: what it reads captions with
    if name.startswith("mm_projector."):  # `model.` and `mm_projector.` come in either order
        return "mm_projector." + re.sub(r"\b(mm_projector|model)\.", "", name)
    name = re.sub(r"^vision_model\.(vision_model\.)?", "vision_tower.", name)
    name = re.sub(r"^text_model\.model\.", "language_model.", name)
    return name.removeprefix("text_model.")


def runtime(checkpoint: Checkpoint, config: Config) -> Runtime:
    """The placeholder, ids that stop and the picture processor's parameters, for the manifest."""
    entries = checkpoint.optional_json("tokenizer.json").get("added_tokens") or []
    added = {entry["content"]: entry["id"] for entry in entries}
    text, vision = llama_text(checkpoint.config), config.vision
    image = square_parameters(checkpoint, vision.image_size, mean=HALF, std=HALF)
    return Runtime(
        tokens={"image": IMAGE_TOKEN},
        image=image | {"patch_size": vision.patch_size, "tokens": vision.tokens},
        rope={"theta": text["rope"]["rope_theta"], "head_dim": config.decoder.head_dim},
        max_context=text["max_position_embeddings"],
        stop_ids=tuple(added[name] for name in STOPS if name in added),
    )


FAMILY = Family(
    name="llama3_vision_alpha",
    canonical=canonical,
    config=Config.read,
    graphs={"vision_encoder": vision_encoder, "projector": projector, "decoder": decoder},
    embedding="language_model.embed_tokens.weight",
    runtime=runtime,
    chat_template=TEMPLATE,
)
