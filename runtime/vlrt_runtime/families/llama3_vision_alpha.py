"""llama-3-vision-alpha at run time (https://huggingface.co/qresearch/llama-3-vision-alpha-hf).

It was trained with one picture in every prompt. `<image>` is no token of its tokenizer: the text
before and after it is tokenized apart.
"""

from __future__ import annotations

from collections.abc import Mapping

from vlrt_runtime.errors import InputError
from vlrt_runtime.families.square import SquareFamily
from vlrt_runtime.manifest import Manifest
from vlrt_runtime.text import TextCodec

__all__ = ["Llama3VisionAlpha", "family"]

MARK = "<image>"


def family(manifest: Manifest, limits: Mapping[str, int]) -> Llama3VisionAlpha:
    """The family's half of a package; see `SquareFamily`."""
    return Llama3VisionAlpha(manifest, limits)


class Llama3VisionAlpha(SquareFamily):
    """See `vlrt_runtime.families.Family`."""

    def token_ids(self, text: str, pictures: int, codec: TextCodec) -> list[int]:
        """Ids of the text on either side of `<image>`, with the placeholder's between them.

        Raises:
            InputError: there is not exactly one picture, or not exactly one place for it.
        """
        first, *rest = text.split(MARK)
        if len(rest) != 1 or pictures != 1:
            raise InputError(
                f"prompt: {len(rest)} picture placeholders, {pictures} pictures given; this model "
                "takes exactly one picture in every prompt"
            )
        return [*codec.encode(first), self.image_token, *codec.encode(rest[0], bare=True)]
