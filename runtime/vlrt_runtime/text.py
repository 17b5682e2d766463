"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from vlrt_runtime.errors import InputError, PackageError

__all__ = ["TextCodec", "stream_text"]

Reason = TypeVar("Reason")


class TextCodec:
    """The package's tokenizer.

    Args:
        path: of tokenizer.json.
        bos_token: what prompts begin with, where the model has it.
    """

    def __init__(self, path: Path, bos_token: str | None) -> None:
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise PackageError(f"{path}: not a tokenizer: {error}; export again") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self._bos_token = bos_token

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with exactly one BOS where the tokenizer adds one.

        Raises:
            InputError: the text cannot be encoded as UTF-8.
        """
        has_bos = self._bos_token is not None and text.startswith(self._bos_token)
        try:
            return list(self.tokenizer.encode(text, add_special_tokens=not has_bos).ids)
        except (UnicodeEncodeError, TypeError) as error:
            raise InputError(f"prompt: it is no valid text: {error}") from error

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of an answer, special tokens left out; ids without a token are skipped."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)


def stream_text(
    codec: TextCodec, token_ids: Generator[int, None, Reason], collected: list[int]
) -> Generator[str, None, Reason]:
    """Text as the ids come, holding bytes back until they are whole characters.

    The pieces end to end are `codec.decode(collected)`. `collected` receives the ids.
    """
    decoder = DecodeStream(skip_special_tokens=True)
    emitted = ""
    while True:
        try:
            token = next(token_ids)
        except StopIteration as end:
            reason: Reason = end.value
            break
        collected.append(token)
        piece = decoder.step(codec.tokenizer, token)
        if piece:
            emitted += piece
            yield piece
    rest = codec.decode(collected).removeprefix(emitted)
    if rest:  # the answer was cut inside a character
        yield rest
    return reason
