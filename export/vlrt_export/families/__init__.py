"""The families that can be exported, by the `model_type` of config.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from vlrt_export.checkpoint import Checkpoint
from vlrt_export.graph import GraphModule
from vlrt_export.weights import Weights
from vlrt_runtime.errors import CheckpointError, InputError

__all__ = ["Family", "Fixed", "Runtime", "family_of", "one_size", "replace_prefix"]

# model_type -> module with a FAMILY; modules are imported when asked for.
FAMILIES = {
    "kosmos-2": "vlrt_export.families.kosmos2",
    "llamavision": "vlrt_export.families.llama3_vision_alpha",
    "llava": "vlrt_export.families.llava",
    "mllama": "vlrt_export.families.mllama",
    "qwen2_vl": "vlrt_export.families.qwen2_vl",
}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What the runtime must know of a checkpoint, as it will stand in the manifest.

    Attributes:
        tokens: ids of the special tokens that the family looks for.
        image: parameters of the picture processor.
        rope: parameters of positions.
        text: parameters of the answer's text.
        stop_ids: ids that end an answer besides those that the checkpoint's files name.
        max_context: positions the model was made for.
    """

    tokens: Mapping[str, int]
    image: Mapping[str, Any]
    rope: Mapping[str, Any]
    max_context: int
    text: Mapping[str, Any] = field(default_factory=dict)
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Sizes of free axes, by name, for targets that want them fixed.

    Attributes:
        vision: of the vision encoder, once for each size of pictures.
        decoder: of the decoder, but for positions.
        padding: what inputs of the decoder are filled up with, by name, if not with zeros.
        image: what the manifest's `image` must say of it.
    """

    vision: Sequence[Mapping[str, int]] = ({},)
    decoder: Mapping[str, int] = field(default_factory=dict)
    padding: Mapping[str, float] = field(default_factory=dict)
    image: Mapping[str, Any] = field(default_factory=dict)


def one_size(config: Any, runtime: Runtime, sizes: Sequence[tuple[int, int]]) -> Fixed:
    """Of families that bring every picture to the same size.

    Raises:
        InputError: sizes (height, width) are asked for.
    """
    if sizes:
        raise InputError("image size: this model sees every picture at one size; leave it out")
    return Fixed()


@dataclass(frozen=True, kw_only=True)
class Family:
    """An architecture: what differs from one family to the next, and nothing else.

    Attributes:
        name: the runtime finds its own half by it.
        canonical: stored tensor name -> the name that graphs use; None for what is no parameter.
        config: config.json -> the family's own frozen config.
        graphs: graph name -> what makes its module of weights and config.
        embedding: canonical name of the embedding table.
        runtime: (checkpoint, config) -> what the manifest must say.
        dropped: canonical prefixes of tensors that are left out on purpose.
        chat_template: for checkpoints without one, or whose own knows no pictures.
        fixed: (config, runtime, picture sizes as height and width) -> sizes of its graphs.
    """

    name: str
    canonical: Callable[[str], str | None]
    config: Callable[[Mapping[str, Any]], Any]
    graphs: Mapping[str, Callable[[Weights, Any], GraphModule]]
    embedding: str
    runtime: Callable[[Checkpoint, Any], Runtime]
    dropped: tuple[str, ...] = ()
    chat_template: str | None = None
    fixed: Callable[[Any, Runtime, Sequence[tuple[int, int]]], Fixed] = one_size


def family_of(checkpoint: Checkpoint) -> Family:
    """The family of a checkpoint.

    Raises:
        CheckpointError: its model_type is not supported.
    """
    model_type = checkpoint.config.get("model_type")
    module = FAMILIES.get(str(model_type))
    if module is None:
        raise CheckpointError(
            f"config.json: model_type {model_type!r}, expected one of {', '.join(FAMILIES)}"
        )
    return import_module(module).FAMILY


def replace_prefix(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    """The name with the first prefix of `pairs` that it has replaced by the other of the pair."""
    for old, new in pairs:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
