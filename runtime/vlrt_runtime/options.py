"""What an answer can be asked for: one definition for `generate`, `stream` and all the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

import numpy as np
from PIL import Image

from vlrt_runtime.errors import InputError
from vlrt_runtime.image import ImageSource
from vlrt_runtime.reuse import EncodedImage
from vlrt_runtime.sampling import Sampling
from vlrt_runtime.video import Video, VideoSource

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["DEFAULT_NEW_TOKENS", "Keywords", "Options", "Progress", "Stage", "takes_options"]

DEFAULT_NEW_TOKENS = 256
ONE_VIDEO = (str, os.PathLike, Video)
ONE_PICTURE = (
    str,
    bytes,
    bytearray,
    memoryview,
    os.PathLike,
    Image.Image,
    np.ndarray,
    EncodedImage,
)
Function = TypeVar("Function", bound=Callable[..., Any])
Stage = Literal["queued", "preprocess", "encode", "project", "prefill", "decode"]


@dataclass(frozen=True)
class Progress:
    """A stage of an answer has begun (`done` 0) or gone on.

    Attributes:
        stage: `queued` waits for other answers of the model, `preprocess` makes pictures ready,
            `encode` and `project` turn them into what the decoder takes, `prefill` runs the prompt,
            `decode` the answer.
        done: of `total`: pictures and at last the prompt (preprocess), pictures or moments of
            videos that are not known yet (encode), pictures (project), positions (prefill, those
            that are kept from before included), ids (decode). Queued: the place in line, 1 next.
        total: what there is to do; of decode, ids at most; of queued, how many wait.
    """

    stage: Stage
    done: int
    total: int


class Keywords(TypedDict, total=False):
    """The keywords of `Options`, for editors and type checkers."""

    images: Iterable[ImageSource | EncodedImage]
    videos: Iterable[VideoSource | Video]
    max_new_tokens: int
    raw: bool
    speculate: bool
    sampling: Sampling | None
    stop: Sequence[str]
    schema: Mapping[str, Any] | str | None
    on_progress: Callable[[Progress], None] | None


@dataclass(frozen=True)
class Options:
    """What an answer is asked for, checked.

    Attributes:
        images: pictures: paths, bytes, PIL images, numpy arrays, or what `encode_image` gave.
        videos: paths, lists of frames, or `Video`s, which say what to look at in them.
        max_new_tokens: ids to add at most.
        raw: the prompt is the whole text, placeholders included; no chat template.
        speculate: text that repeats is guessed and checked several ids at a time: the same greedy
            answer, sooner where it repeats (see `vlrt_runtime.lookup`).
        sampling: how ids are drawn; None takes the likeliest.
        stop: texts; the answer ends before the first of them.
        schema: a JSON schema, as a dict or as its text, that the answer will fit (see
            `vlrt_runtime.schema`).
        on_progress: called as the stages go on, in the thread that asks for pieces; what it
            raises ends the answer.

    Raises:
        InputError: a value cannot be used.
    """

    images: Sequence[ImageSource | EncodedImage] = ()
    videos: Sequence[VideoSource | Video] = ()
    max_new_tokens: int = DEFAULT_NEW_TOKENS
    raw: bool = False
    speculate: bool = False
    sampling: Sampling | None = None
    stop: Sequence[str] = ()
    schema: Mapping[str, Any] | str | None = None
    on_progress: Callable[[Progress], None] | None = None

    @classmethod
    def of(cls, **options: Unpack[Keywords]) -> Options:
        """Of keywords; pictures, videos and stops may be anything that goes round."""
        for name, one in (("images", ONE_PICTURE), ("videos", ONE_VIDEO), ("stop", str)):
            given = options.get(name, ())
            if isinstance(given, one):
                what = {"images": "picture", "videos": "video", "stop": "text"}[name]
                raise InputError(f"{name}: expected a list of {what}s, got one; put it in brackets")
            options[name] = tuple(given)  # once: it may be a generator
        return cls(**options)  # pyright: ignore[reportArgumentType]

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens {self.max_new_tokens}: expected at least 1")
        for text in self.stop:
            if not isinstance(text, str) or not text:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InputError(f"stop: expected texts that are not empty, got {text!r:.80}")
        if self.speculate and not self.greedy:
            raise InputError("speculate: it guesses greedy answers; leave sampling out, or it")
        if self.speculate and self.schema is not None:
            raise InputError("speculate: it knows no schema; leave one of the two out")

    @property
    def greedy(self) -> bool:
        """The likeliest id is always taken."""
        return self.sampling is None or self.sampling.greedy


def takes_options(function: Function) -> Function:
    """Shows each option as a keyword of its own: to `help`, and to shells that complete names."""
    kept = [
        parameter
        for parameter in signature(function).parameters.values()
        if parameter.kind is not Parameter.VAR_KEYWORD
    ]
    shown = [
        Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(Options)
        if f.default is not MISSING
    ]
    returned = signature(function).return_annotation
    function.__signature__ = Signature([*kept, *shown], return_annotation=returned)  # pyright: ignore[reportFunctionMemberAccess]
    return function
