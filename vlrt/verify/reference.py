"""The reference: transformers on the original checkpoint, in float32, on the CPU.

`vlrt verify` and the parity tests compare a package with what stands here, stage by stage. This
module holds what all families share; a family's own part is a module named in `REFERENCES`. torch
and transformers are imported when a reference is loaded, never before.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt_runtime.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    InputError,
    MissingDependencyError,
    shortlist,
)

__all__ = [
    "REFERENCES",
    "Attention",
    "FloatArray",
    "Message",
    "Reference",
    "ReferenceInputs",
    "ReferenceRun",
    "load_reference",
]

FloatArray = NDArray[np.float32]
Message = Mapping[str, Any]
"""One turn of a chat: `role`, and `content` as text or as parts such as `{"type": "image"}`."""
Attention = Literal["sdpa", "eager"]

REFERENCES: Mapping[str, str] = MappingProxyType(
    {
        "kosmos2": "vlrt.verify.kosmos2",
        "llama3_vision_alpha": "vlrt.verify.llama3_vision_alpha",
        "llava": "vlrt.verify.llava",
        "mllama": "vlrt.verify.mllama",
        "qwen2_vl": "vlrt.verify.qwen2_vl",
    }
)
"""Family -> module; each has `load(folder, *, attention) -> Reference`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceInputs:
    """A prompt and its pictures, ready for the model."""

    prompt: str
    """The rendered chat, one placeholder a picture."""
    token_ids: list[int]
    """[S], each placeholder repeated once for every token of its picture."""
    pixel_values: list[FloatArray]
    """The vision encoder's input, one array a picture."""
    grids: list[tuple[int, int, int]]
    """Frames, rows and columns of patches, one a picture; empty in a family of fixed size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRun:
    """What the model computed on the way, and the tokens it chose."""

    vision_features: list[FloatArray]
    """The vision encoder's output before it is projected, one array a picture."""
    image_embeds: list[FloatArray]
    """[tokens, hidden] a picture: the projected features; else all that the projector makes."""
    inputs_embeds: FloatArray
    """[1, S, hidden], pictures spliced in."""
    logits: FloatArray
    """[S, vocab], at every position of the prompt."""
    token_ids: list[int]
    """The new ids, the stop id left out."""
    finish_reason: Literal["stop", "length"]
    step_logits: FloatArray
    """[steps, vocab], what each step chose from, after the repetition penalty; a stop is a step."""

    @property
    def margins(self) -> FloatArray:
        """[steps], how far the chosen token was ahead of the next: what rounding may not bridge."""
        best = np.partition(self.step_logits, -2, axis=-1)[:, -2:]
        return best[:, 1] - best[:, 0]


class Reference(ABC):
    """A checkpoint loaded into transformers. Subclasses know how their family takes pictures."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.torch = optional_module("torch")

    @abstractmethod
    def inputs(
        self,
        messages: Sequence[Message],
        images: Sequence[Image.Image] = (),
        *,
        image_options: Mapping[str, int] | None = None,
    ) -> ReferenceInputs:
        """Render a chat and prepare its pictures.

        Args:
            messages: The turns, with a part `{"type": "image"}` where each picture goes.
            images: RGB pictures, upright: what a file says of rotation or transparency is settled.
            image_options: What a package does differently from preprocessor_config.json, in the
                keys of that file.
        """

    @abstractmethod
    def run(self, inputs: ReferenceInputs, new_tokens: int) -> ReferenceRun:
        """Prefill, keeping every stage, then choose up to `new_tokens` tokens greedily."""

    @abstractmethod
    def arguments(self, inputs: ReferenceInputs, token_ids: Sequence[int]) -> dict[str, Any]:
        """The model's keyword arguments for `token_ids` [S] with the pictures of `inputs`."""

    def double(self) -> Reference:
        """From here on in float64: what differs then is the other side's rounding alone.

        For families whose code in transformers makes no float32 tensors of its own.
        """
        self.model.double()
        return self

    def forward_logits(
        self, inputs: ReferenceInputs, continuation: Sequence[int] = ()
    ) -> FloatArray:
        """Logits [S + len(continuation), vocab] of one full pass, with no cache."""
        arguments = self.arguments(inputs, [*inputs.token_ids, *continuation])
        with self.torch.no_grad():
            return to_numpy(self.model(**arguments, use_cache=False).logits[0])

    def decode_greedily(
        self, inputs: ReferenceInputs, new_tokens: int
    ) -> tuple[list[int], Literal["stop", "length"], FloatArray]:
        """`token_ids`, `finish_reason` and `step_logits` of `ReferenceRun`, by `generate`."""
        if new_tokens < 1:
            raise InputError(f"new_tokens is {new_tokens}: expected at least 1")
        made = self.model.generate(
            **self.arguments(inputs, inputs.token_ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            # The checkpoint's sampling settings mean nothing here; left in, each draws a warning.
            temperature=None,
            top_p=None,
            top_k=None,
            return_dict_in_generate=True,
            output_scores=True,
        )
        chosen = cast("list[int]", made.sequences[0, len(inputs.token_ids) :].tolist())
        step_logits = to_numpy(self.torch.cat(made.scores))
        stop_ids = self.model.generation_config.eos_token_id
        if chosen[-1] in (stop_ids if isinstance(stop_ids, list) else [stop_ids]):
            return chosen[:-1], "stop", step_logits
        return chosen, "length", step_logits


def load_reference(folder: Path, family: str, *, attention: Attention = "sdpa") -> Reference:
    """Load the checkpoint in `folder` as float32, whatever type its weights are stored in.

    Args:
        folder: A checkpoint folder on this machine.
        family: A key of `REFERENCES`.
        attention: transformers' implementation; `eager` holds every score matrix in memory.
    """
    if family not in REFERENCES:
        raise InputError(f"no reference for family {family!r}: expected {shortlist(REFERENCES)}")
    if not (folder / "config.json").is_file():
        raise CheckpointNotFoundError(f"no checkpoint in {folder}: it has no config.json")
    optional_module("transformers")
    optional_module("torch")  # transformers imports without it and fails later, less plainly
    module = importlib.import_module(REFERENCES[family])
    return cast("Reference", module.load(folder, attention=attention))


@contextmanager
def hooked(*handles: Any) -> Generator[None]:
    """Hooks of torch that are there within the block, and gone behind it."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def load_model(model_class: Any, folder: Path, *, attention: Attention) -> Any:
    """Load `folder` into a class of transformers, refusing weights that do not fit it exactly."""
    model, report = model_class.from_pretrained(
        folder,
        # Without it transformers 5 computes in the type of the checkpoint.
        dtype=optional_module("torch").float32,
        attn_implementation=attention,
        local_files_only=True,
        output_loading_info=True,
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := cast("Iterable[object]", report[kind]):
            words = kind.replace("_", " ")
            raise CheckpointError(f"{folder}: transformers reports {words}: {shortlist(names)}")
    return model.eval()


def optional_module(name: str) -> Any:
    """Import torch, transformers or the like, which the base install does not have."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise  # installed, but something that it needs is not
        raise MissingDependencyError(
            f"the reference needs {name}, which is not installed: pip install 'vlrt[test]'"
        ) from error


def to_numpy(tensor: Any) -> FloatArray:
    """A float32 copy of a torch tensor."""
    return np.array(tensor.detach().float().cpu().numpy())
