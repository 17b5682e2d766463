"""What values a checkpoint's JSON files may have: checked when a file is read, for all families.

Keys mean the same wherever they stand, so one record knows the keys of every section; what is not
read is not named here. A key may be absent or null: then the family's default holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from vlrt_runtime.errors import CheckpointError

__all__ = ["check"]

Size = Annotated[int, Meta(ge=1, lt=1 << 31)] | None
Few = Annotated[int, Meta(ge=1, le=4096)] | None  # layers and the like, which are looped over
Index = Annotated[int, Meta(ge=-4096, le=4096)]
Id = Annotated[int, Meta(ge=-(1 << 31), lt=1 << 31)]
Ids = Id | tuple[Id, ...] | None
Positive = Annotated[float, Meta(gt=0, le=1e30)] | None
Channels = Annotated[tuple[Annotated[float, Meta(ge=-1e30, le=1e30)], ...], Meta(min_length=1)]


class Rope(msgspec.Struct):
    """rope_scaling, or rope_parameters of newer files."""

    rope_theta: Positive = None
    type: str | None = None
    rope_type: str | None = None
    factor: Positive = None
    low_freq_factor: Positive = None
    high_freq_factor: Positive = None
    original_max_position_embeddings: Size = None
    mrope_section: tuple[Annotated[int, Meta(ge=0, le=4096)], ...] | None = None


class Config(msgspec.Struct):
    """config.json and its sections."""

    model_type: str | None = None
    text_config: Config | None = None
    vision_config: Config | None = None
    hidden_size: Size = None
    embed_dim: Size = None
    intermediate_size: Size = None
    ffn_dim: Size = None
    num_hidden_layers: Few = None
    num_global_layers: Few = None
    layers: Few = None
    depth: Few = None
    num_attention_heads: Few = None
    num_key_value_heads: Few = None
    attention_heads: Few = None
    num_heads: Few = None
    head_dim: Size = None
    mlp_ratio: Few = None
    vocab_size: Size = None
    max_position_embeddings: Size = None
    latent_query_num: Size = None
    image_size: Size = None
    patch_size: Size = None
    temporal_patch_size: Few = None
    spatial_merge_size: Few = None
    max_num_tiles: Annotated[int, Meta(ge=1, le=64)] | None = None
    num_channels: Few = None
    in_channels: Few = None
    vision_feature_layer: Index | tuple[Index, ...] | None = None  # several: no model of ours
    vision_feature_select_strategy: str | None = None
    intermediate_layers_indices: tuple[Index, ...] | None = None
    cross_attention_layers: tuple[Index, ...] | None = None
    supported_aspect_ratios: tuple[tuple[Index, ...], ...] | None = None
    hidden_act: str | None = None
    activation_function: str | None = None
    projector_hidden_act: str | None = None
    rms_norm_eps: Positive = None
    layer_norm_eps: Positive = None
    norm_eps: Positive = None
    tie_word_embeddings: bool | None = None
    scale_embedding: bool | None = None
    rope_theta: Positive = None
    rope_scaling: Rope | None = None
    rope_parameters: Rope | None = None
    image_token_id: Id | None = None
    image_token_index: Id | None = None
    video_token_id: Id | None = None
    vision_start_token_id: Id | None = None
    vision_end_token_id: Id | None = None
    bos_token_id: Id | None = None
    pad_token_id: Id | None = None
    eos_token_id: Ids = None


class Sides(msgspec.Struct):
    """A size of pictures."""

    height: Size = None
    width: Size = None
    shortest_edge: Size = None
    longest_edge: Size = None


class Pictures(msgspec.Struct):
    """What a processor does to pictures or frames."""

    size: Annotated[int, Meta(ge=1, lt=1 << 31)] | Sides | None = None
    crop_size: Annotated[int, Meta(ge=1, lt=1 << 31)] | Sides | None = None
    min_pixels: Size = None
    max_pixels: Size = None
    use_square_size: bool | None = None
    max_image_tiles: Few = None
    patch_size: Size = None
    temporal_patch_size: Few = None
    merge_size: Few = None
    image_mean: Channels | None = None
    image_std: Channels | None = None
    rescale_factor: Positive = None
    resample: Annotated[int, Meta(ge=0, le=5)] | None = None


class Template(msgspec.Struct):
    """One of several chat templates."""

    name: str
    template: str


class Processor(msgspec.Struct):
    """processor_config.json, and chat_template.json."""

    image_processor: Pictures | None = None
    video_processor: Pictures | None = None
    chat_template: str | tuple[Template, ...] | None = None


class Generation(msgspec.Struct):
    """generation_config.json."""

    eos_token_id: Ids = None
    num_beams: int | None = None
    repetition_penalty: Positive = None


class Token(msgspec.Struct):
    """A special token that is more than its text."""

    content: str


class Tokens(msgspec.Struct):
    """tokenizer_config.json."""

    bos_token: str | Token | None = None
    eos_token: str | Token | None = None
    pad_token: str | Token | None = None
    unk_token: str | Token | None = None
    chat_template: str | tuple[Template, ...] | None = None


class Added(msgspec.Struct):
    """An entry of tokenizer.json's added_tokens."""

    content: str
    id: Id


class Tokenizer(msgspec.Struct):
    """tokenizer.json, as far as the exporter reads it."""

    added_tokens: tuple[Added, ...] | None = None


FILES: dict[str, Any] = {
    "config.json": Config,
    "preprocessor_config.json": Pictures,
    "video_preprocessor_config.json": Pictures,
    "processor_config.json": Processor,
    "chat_template.json": Processor,
    "generation_config.json": Generation,
    "tokenizer_config.json": Tokens,
    "tokenizer.json": Tokenizer,
}


def check(name: str, values: Mapping[str, Any]) -> None:
    """Makes sure that a file's values are what they must be.

    Raises:
        CheckpointError: one is not; it is named.
    """
    try:
        msgspec.convert(values, FILES.get(name, Any))
    except msgspec.ValidationError as error:
        said, _, path = str(error).partition(" - at `$.")
        where = path.rstrip("`")
        value: Any = values
        for key in re.findall(r"[^.[\]]+", where):
            value = value[int(key) if isinstance(value, list) else key]
        expected = said.partition(", got")[0].replace("`", "").removeprefix("Expected ")
        expected = expected.replace("Object missing required field", "an object with")
        raise CheckpointError(
            f"{name}: {where} is {value!r:.60}, expected {expected.removesuffix(' | null')}; "
            "is this checkpoint damaged?"
        ) from error
    except RecursionError as error:
        raise CheckpointError(f"{name}: its values are nested too deeply") from error
