"""Prompts and pictures as people give them, to what the graphs take."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from vlrt_runtime.chat import Message, as_messages, compile_template
from vlrt_runtime.errors import ContextLengthError, InputError, PackageError
from vlrt_runtime.families import Family, Layout, Picture
from vlrt_runtime.image import ImageSource, load_image
from vlrt_runtime.package import Package
from vlrt_runtime.reuse import EncodedImage, FeatureStore
from vlrt_runtime.schema import Guide
from vlrt_runtime.stages import Stages, Watch, unwatched
from vlrt_runtime.text import TextCodec
from vlrt_runtime.video import Video, VideoSource, as_video

__all__ = ["Prompt", "Prompts", "chat_template"]

MOST_DIGESTS = 1024
Prompt = str | Sequence[Message]


class Prompts(Stages):
    """The half of `Model` that reads prompts.

    Attributes:
        package: its files.
        family: its preprocessing, positions and text.
        features: of pictures that were encoded before.
        encoder_digest: of the graphs that make them.
    """

    package: Package
    family: Family
    features: FeatureStore
    encoder_digest: str
    _render: Callable[[Sequence[Message]], str] | None

    def __init__(self) -> None:
        self._digests: dict[bytes, Picture] = {}  # SHA-256 of a file -> its picture, without pixels
        self._codec: TextCodec | None = None
        self._guide: Guide | None = None
        self._reading = threading.Lock()

    def prepare(
        self,
        prompt: Prompt,
        images: Sequence[ImageSource | EncodedImage] = (),
        videos: Sequence[VideoSource | Video] = (),
        *,
        raw: bool = False,
        watch: Watch = unwatched,
    ) -> tuple[Layout, list[Picture]]:
        """Pictures and prompt as they will enter the graphs; raises what `generate` raises.

        `watch` hears of pictures, and of the prompt at last.
        """
        if raw:
            if not isinstance(prompt, str):
                raise InputError("prompt: a raw prompt is text, not messages")
            if len(images) and len(videos):
                raise InputError("prompt: pictures and videos together need messages, not raw text")
            text, sources = prompt, [*images, *map(as_video, videos)]
        else:
            messages, sources = as_messages(prompt, images, videos)
            text = self.chat_text(messages)
        steps = len(sources) + 1
        watch(0, steps)
        token_ids = self.family.token_ids(text, len(sources), self.codec)
        pictures: list[Picture] = []
        for source in sources:
            pictures.append(self._picture(source))
            watch(len(pictures), steps)
        layout = self.family.layout(token_ids, pictures)
        length, most = len(layout.token_ids), self.manifest.generation.max_context
        if length == 0:
            raise InputError("prompt: it is empty")
        if length >= most:
            raise ContextLengthError(
                f"prompt: {length} tokens, {int(layout.slots.sum())} of them pictures; the model's "
                f"context is {most}; shorten the text or lower max_pixels"
            )
        watch(steps, steps)
        return layout, pictures

    def encode_image(self, image: ImageSource | Video) -> EncodedImage:
        """Encodes a picture now, to be given in its place to as many prompts as there are.

        It is kept as long as the caller keeps it, whatever the caches hold.

        Raises:
            ImageError: the picture cannot be used.
        """
        picture = self._picture(image)
        projected = self.features.get(picture.digest) or self.projector(self.encode(picture))
        picture = replace(picture, inputs={}, projected=projected, known_digest=picture.digest)
        return EncodedImage(picture, self.encoder_digest)

    def chat_text(self, messages: Sequence[Message]) -> str:
        """The prompt text of messages, by the package's chat template."""
        if self._render is None:
            raise InputError(f"{self.manifest.name}: it has no chat template; use a raw prompt")
        return self._render(messages)

    def forget(self) -> None:
        """Gives back what can be read again."""
        with self._reading:
            self._codec = self._guide = None
            self._digests.clear()

    @property
    def codec(self) -> TextCodec:
        """Its tokenizer."""
        with self._reading:
            if self._codec is None:
                bos_token = self.manifest.special_tokens.get("bos_token")
                self._codec = TextCodec(self.package.path("tokenizer.json"), bos_token)
            return self._codec

    @property
    def guide(self) -> Guide:
        """What schemas need to know of the tokenizer.

        Raises:
            InputError: it is of a kind that llguidance does not know.
            MissingDependencyError: llguidance is not installed.
        """
        with self._reading:
            if self._guide is None:
                outputs = {spec.name: spec for spec in self.manifest.graphs["decoder"].outputs}
                vocab_size = int(outputs["logits"].shape[-1])
                self._guide = Guide(self.package.path("tokenizer.json"), vocab_size)
            return self._guide

    @property
    def chats(self) -> bool:
        """The package has a chat template."""
        return self._render is not None

    def _picture(self, source: ImageSource | Video | EncodedImage) -> Picture:
        if isinstance(source, Video):
            return self.family.video(source)
        if isinstance(source, bytes):
            return self._read(source)
        if not isinstance(source, EncodedImage):
            return self.family.picture(load_image(source))
        if source.encoder != self.encoder_digest:
            raise InputError("images: a picture encoded by another model; encode it with this one")
        return source.picture

    def _read(self, data: bytes) -> Picture:
        """The picture of a file's bytes, which are not decoded again while its features are kept.

        Conversations give the same ones turn after turn.
        """
        key = hashlib.sha256(data).digest()
        known = self._digests.get(key)
        projected = None if known is None else self.features.get(known.digest)
        if known is not None and projected is not None:
            return replace(known, projected=projected)
        picture = self.family.picture(load_image(data))
        with self._reading:
            while len(self._digests) >= MOST_DIGESTS:
                del self._digests[next(iter(self._digests))]
            self._digests[key] = replace(picture, inputs={}, known_digest=picture.digest)
        return picture


def chat_template(package: Package) -> Callable[[Sequence[Message]], str] | None:
    """What renders messages, where the package has a template."""
    path = package.path("chat_template.jinja")
    if path.name not in package.manifest.files:
        return None
    try:
        source = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise PackageError(f"{path}: not UTF-8 text; export the package again") from error
    return compile_template(source, package.manifest.special_tokens)
