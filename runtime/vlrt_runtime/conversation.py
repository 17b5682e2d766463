"""A conversation: questions and answers that follow from one another, taken back, saved, loaded.

Earlier turns are not computed again: the model keeps their keys and values, and their pictures'
features (`prefix_cache_mb`, `image_cache_mb`).
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
from PIL import Image

from vlrt_runtime.answer import Answer
from vlrt_runtime.errors import ImageError, InputError, StorageError
from vlrt_runtime.files import whole_file
from vlrt_runtime.image import ImageSource, load_image, open_file
from vlrt_runtime.options import Keywords, Options, takes_options
from vlrt_runtime.reuse import EncodedImage
from vlrt_runtime.stream import AsyncStream, Stream
from vlrt_runtime.video import Video, as_video

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from vlrt_runtime.model import Model

__all__ = ["Chat", "Picture", "Turn"]

SCHEMA_VERSION = 1
MAX_PICTURE = 128 << 20  # bytes of a picture's file
MAX_FILE = 1 << 30  # bytes of a saved conversation

Picture = bytes | Image.Image | EncodedImage


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
        text: the question.
        answer: its text, as far as it went.
        images: pictures that came with it: the bytes of files, or else PIL images, or what
            `encode_image` gave.
        videos: that came with it.
    """

    text: str
    answer: str
    images: tuple[Picture, ...] = ()
    videos: tuple[Video, ...] = ()

    def messages(self) -> list[dict[str, Any]]:
        """As `vlrt_runtime.chat` has them."""
        return [_question(self.text, self.images, self.videos), _said("assistant", self.answer)]


class Chat:
    """A conversation with a model, begun by `Model.chat` or `Model.load_chat`.

    A cancelled answer stays as far as it went; one that failed leaves everything as it was. Files
    are read when they are given: they may change or vanish afterwards. For one question at a time:
    the next one ends an answer that is still being made.

    Args:
        model: that answers.
        system: what it is told before all else, if anything.
        defaults: options of every answer.
    """

    def __init__(
        self, model: Model, system: str | None = None, defaults: Keywords | None = None
    ) -> None:
        if not model.chats:
            raise InputError(
                f"{model.manifest.name}: it has no chat template, so it cannot hold a "
                "conversation; ask it single questions with generate or stream"
            )
        self.model, self.system = model, system
        self._defaults = defaults or Keywords()
        asked = self._asked(self._defaults)
        if asked.images or asked.videos:
            raise InputError("images: give them with a question, not for all of a conversation")
        self._turns: list[Turn] = []
        self._stream: Stream | None = None  # the last one
        self._lock = threading.Lock()

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Questions and answers so far."""
        with self._lock:
            return tuple(self._turns)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The same, as messages in the form of `vlrt_runtime.chat`."""
        system = [] if self.system is None else [_said("system", self.system)]
        return system + [message for turn in self.turns for message in turn.messages()]

    @takes_options
    def ask(self, text: str, **options: Unpack[Keywords]) -> Answer:
        """Asks, with all that was said before; see `vlrt_runtime.options.Options`.

        Raises:
            InputError: and its kinds, as `Model.generate`.
        """
        return self.stream(text, **options).result()

    @takes_options
    def stream(self, text: str, **options: Unpack[Keywords]) -> Stream:
        """As `ask`, piece by piece; it becomes a turn when the pieces have ended."""
        self._settle()
        asked = self._asked(cast("Keywords", {**self._defaults, **options}))
        images = tuple(_kept(image) for image in asked.images)
        videos = tuple(as_video(video) for video in asked.videos)

        def keep(answer: Answer) -> None:
            with self._lock:
                self._turns.append(Turn(text, answer.text, images, videos))

        messages = [*self.messages, _question(text, images, videos)]
        asked = replace(asked, images=(), videos=())  # they are in the messages
        self._stream = stream = self.model.start(messages, asked, keep)
        return stream

    @takes_options
    def astream(self, text: str, **options: Unpack[Keywords]) -> AsyncStream:
        """As `stream`, for an event loop."""
        return AsyncStream(self.stream(text, **options))

    def undo(self) -> str | None:
        """Takes the last turn back, and returns its question; None where there is none."""
        self._settle()
        with self._lock:
            return self._turns.pop().text if self._turns else None

    def reset(self) -> None:
        """Takes all turns back."""
        self._settle()
        with self._lock:
            self._turns.clear()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the conversation to a file, pictures included; whole or not at all.

        Raises:
            InputError: it has a video, or a picture of which only the features are there.
            StorageError: the file cannot be written.
        """
        turns = [_saved(number, turn) for number, turn in enumerate(self.turns, 1)]
        name = self.model.manifest.name
        data = msgspec.json.encode(_File(SCHEMA_VERSION, turns, self.system, name))
        if len(data) > MAX_FILE:
            raise InputError(f"conversation of {len(data)} bytes: {MAX_FILE} can be read again")
        _write(Path(path), data)

    @classmethod
    def load(cls, model: Model, path: str | os.PathLike[str], defaults: Keywords) -> Chat:
        """See `Model.load_chat`."""
        name = os.fsdecode(path)
        with open_file(path, "conversation", InputError) as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise InputError(f"conversation '{name}': larger than {MAX_FILE} bytes")
        try:
            found = msgspec.json.decode(data, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"'{name}': not a conversation saved by vlrt: {error}") from error
        if found.schema_version != SCHEMA_VERSION:
            raise InputError(
                f"conversation '{name}': schema_version {found.schema_version}, expected "
                f"{SCHEMA_VERSION}; update vlrt"
            )
        chat = cls(model, found.system, defaults)
        chat._turns = [Turn(turn.text, turn.answer, tuple(turn.images)) for turn in found.turns]
        return chat

    def _asked(self, keywords: Keywords) -> Options:
        asked = Options.of(**keywords)
        if asked.raw:
            raise InputError("raw: a conversation is made of messages; leave it out")
        return asked

    def _settle(self) -> None:
        """Ends an answer that nobody waits for any more."""
        if self._stream is not None and self._stream.answer is None:
            self._stream.close()


class _Turn(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    answer: str
    images: list[bytes] = []  # base64 in JSON


class _File(msgspec.Struct, forbid_unknown_fields=True):
    schema_version: int
    turns: list[_Turn]
    system: str | None = None
    model: str | None = None  # for people: any model goes on with it


def _question(text: str, images: tuple[Picture, ...], videos: tuple[Video, ...]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    parts += [{"type": "video", "video": video} for video in videos]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def _said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def _kept(source: ImageSource | EncodedImage) -> Picture:
    """The picture as it is now, whatever becomes of where it came from."""
    if isinstance(source, EncodedImage):
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if not isinstance(source, str | os.PathLike):
        return load_image(source).copy()
    with open_file(source) as file:
        data = file.read(MAX_PICTURE + 1)
    if len(data) > MAX_PICTURE:
        raise ImageError(f"picture of more than {MAX_PICTURE} bytes: '{os.fsdecode(source)}'")
    return data


def _saved(number: int, turn: Turn) -> _Turn:
    if turn.videos:
        raise InputError(f"turn {number}: a video cannot be saved; take the turn back first")
    images: list[bytes] = []
    for image in turn.images:
        if isinstance(image, EncodedImage):
            raise InputError(
                f"turn {number}: of a picture given as encode_image's result nothing can be saved; "
                "give pictures themselves, they are encoded once all the same"
            )
        images.append(image if isinstance(image, bytes) else _png(image))
    return _Turn(turn.text, turn.answer, images)


def _png(image: Image.Image) -> bytes:
    data = BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def _write(path: Path, data: bytes) -> None:
    try:
        with whole_file(path) as file:
            file.write(data)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
