"""LLaVA-1.5: https://arxiv.org/abs/2310.03744, https://huggingface.co/llava-hf/llava-1.5-7b-hf.

vision_encoder: CLIP's last layer but one, without the class token.  projector: a two-layer MLP, row
by row.  decoder: Llama.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlrt_export.checkpoint import Checkpoint
from vlrt_export.config import decoder_config, llama_text, require, square_parameters
from vlrt_export.families import Family, Runtime, replace_prefix
from vlrt_export.layers.llama import DecoderConfig, LlamaDecoder
from vlrt_export.layers.picture import PictureEncoder, PictureProjector
from vlrt_export.layers.vit import CLIP, ViTConfig
from vlrt_export.weights import Weights
from vlrt_runtime.errors import CheckpointError

EOS = 2  # LlamaConfig's own, where neither generation_config.json nor config.json has one
# What is left to do where transformers 4 wrote the names; 5 wraps nothing twice.
RENAMES = (
    ("language_model.model.", "language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.vision_model.", "vision_tower."),
)
# Pictures come first in every message; what older revisions of the checkpoint were used with.
TEMPLATE = """\
{%- for message in messages -%}
    {%- if message.role != "system" -%}
        {{- message.role | upper ~ ": " -}}
    {%- endif -%}
    {%- if message.content is string -%}
        {{- message.content ~ " " -}}
    {%- else -%}
        {%- for part in message.content if part.type == "image" -%}
            {{- "<image>\\n" -}}
        {%- endfor -%}
        {%- for part in message.content if part.type == "text" -%}
            {{- part.text ~ " " -}}
        {%- endfor -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "ASSISTANT:" -}}
{%- endif -%}
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """config.json, by its own names."""

    decoder: DecoderConfig
    vision: ViTConfig
    projector_hidden_act: str
    vision_feature_layer: int
    skip_class: bool

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Config:
        """From config.json as published (sparse) or as transformers 5 writes it (complete)."""
        vision = require(config, "vision_config")
        kind = vision.get("model_type", "clip_vision_model")
        strategy = config.get("vision_feature_select_strategy", "default")
        if kind != "clip_vision_model" or strategy not in ("default", "full"):
            raise CheckpointError(
                f"config.json: vision_config.model_type {kind!r} and "
                f"vision_feature_select_strategy {strategy!r}, expected clip_vision_model and "
                "default or full"
            )
        return cls(
            decoder=decoder_config(llama_text(config)),
            vision=CLIP.updated(vision),
            projector_hidden_act=config.get("projector_hidden_act", "gelu"),
            vision_feature_layer=config.get("vision_feature_layer", -2),
            skip_class=strategy == "default",
        )


def vision_encoder(weights: Weights, config: Config) -> PictureEncoder:
    """CLIP up to the layer that is looked at."""
    return PictureEncoder(
        weights.at("vision_tower"),
        config.vision,
        output=config.vision_feature_layer,
        skip_class=config.skip_class,
    )


def projector(weights: Weights, config: Config) -> PictureProjector:
    """Features to rows of the decoder's width."""
    hidden = config.decoder.hidden_size
    return PictureProjector(
        weights.at("multi_modal_projector"),
        ("linear_1", "linear_2"),
        (config.vision.hidden_size, hidden, hidden),
        config.projector_hidden_act,
    )


def decoder(weights: Weights, config: Config) -> LlamaDecoder:
    """The language model."""
    return LlamaDecoder(weights.at("language_model"), weights, config.decoder)


def canonical(name: str) -> str | None:
    """`vision_tower.*`, `multi_modal_projector.*`, `language_model.*` and `lm_head.*`."""
    if name.endswith(("rotary_emb.inv_freq", "position_ids")):
        return None
    return replace_prefix(name.removeprefix("model."), RENAMES)


def runtime(checkpoint: Checkpoint, config: Config) -> Runtime:
    """The placeholder's id and the picture processor's parameters, for the manifest."""
    top, text = checkpoint.config, llama_text(checkpoint.config)
    image_token = top.get("image_token_index", top.get("image_token_id", 32000))
    vision = config.vision
    image = square_parameters(checkpoint, vision.image_size) | {
        "patch_size": vision.patch_size,
        "tokens": vision.tokens - config.skip_class,
    }
    return Runtime(
        tokens={"image": image_token},
        image=image,
        rope={"theta": text["rope"]["rope_theta"], "head_dim": config.decoder.head_dim},
        max_context=text["max_position_embeddings"],
        stop_ids=() if text.get("eos_token_id") is not None else (EOS,),
    )


FAMILY = Family(
    name="llava",
    canonical=canonical,
    config=Config.read,
    graphs={"vision_encoder": vision_encoder, "projector": projector, "decoder": decoder},
    embedding="language_model.embed_tokens.weight",
    runtime=runtime,
    chat_template=TEMPLATE,
)
