"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from tokenizers import Tokenizer

from vlrt_runtime.errors import InputError, PackageError

__all__ = ["TextCodec", "stream_read", "stream_text", "stream_until"]

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

    def encode(self, text: str, *, bare: bool = False) -> list[int]:
        """Token ids of a prompt, with exactly one BOS where the tokenizer adds one.

        `bare` leaves out what the tokenizer would add before and after.

        Raises:
            InputError: the text cannot be encoded as UTF-8.
        """
        has_bos = self._bos_token is not None and text.startswith(self._bos_token)
        adds = not (bare or has_bos)
        try:
            return list(self.tokenizer.encode(text, add_special_tokens=adds).ids)
        except (UnicodeEncodeError, TypeError) as error:
            raise InputError(f"prompt: it is no valid text: {error}") from error

    def decode(self, token_ids: Sequence[int], *, special: bool = False) -> str:
        """Text of an answer, special tokens left out or kept; ids without a token are skipped."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=not special)

    def special_tokens(self) -> list[str]:
        """The tokens that `decode` leaves out."""
        added = self.tokenizer.get_added_tokens_decoder()
        return [token.content for token in added.values() if token.special]


def stream_text(
    codec: TextCodec, token_ids: Generator[int, None, Reason], collected: list[int]
) -> Generator[str, None, Reason]:
    """Text as the ids come, holding bytes back until they are whole characters.

    The pieces end to end are `codec.decode(collected)`, with one exception: some tokenizers let a
    byte that fits nothing spoil the characters before it, and what was yielded stays. `collected`
    receives the ids.
    """
    # Not the tokenizers library's DecodeStream: it raises at such a byte.
    last, pending = list[int](), list[int]()  # the ids of the last piece, and those since
    while True:
        try:
            token = next(token_ids)
        except StopIteration as end:
            reason: Reason = end.value
            break
        collected.append(token)
        pending.append(token)
        piece = _added(codec, last, pending)
        if piece and not piece.endswith("\ufffd"):
            yield piece
            last, pending = pending, []
    if piece := _added(codec, last, pending):  # the answer was cut inside a character
        yield piece
    return reason


def _added(codec: TextCodec, last: list[int], pending: list[int]) -> str:
    """What `pending` adds to the text of `last`; alone it could lose a space or half a letter."""
    before, whole = codec.decode(last), codec.decode(last + pending)
    return whole.removeprefix(before) if whole.startswith(before) else codec.decode(pending)


def stream_read(
    read: Callable[[list[int]], str],
    token_ids: Generator[int, None, Reason],
    collected: list[int],
) -> Generator[str, None, Reason]:
    """As `stream_text`, for text whose last words may still change as ids come.

    `read` makes the whole text of the ids so far. What lies before its last two words, and before
    a tag that is not closed yet, is taken as settled.
    """
    emitted = ""
    while True:
        try:
            collected.append(next(token_ids))
        except StopIteration as end:
            reason: Reason = end.value
            break
        settled = read(collected).partition("<")[0].rsplit(" ", 2)
        if len(settled) == 3 and settled[0].startswith(emitted) and settled[0] != emitted:
            yield settled[0].removeprefix(emitted)
            emitted = settled[0]
    whole = read(collected)
    if whole.startswith(emitted) and whole != emitted:
        yield whole.removeprefix(emitted)
    return reason


def stream_until(
    pieces: Generator[str, None, Reason], stops: Sequence[str], said: list[str], skip: int
) -> Generator[str, None, Reason | Literal["stop"]]:
    """Text up to the stop that is complete first; what may be the beginning of one is held back.

    Args:
        pieces: the text as it comes; closed where a stop is found.
        stops: none is empty.
        said: receives what is yielded.
        skip: characters in front that are not looked at.
    """
    held, count = "", 0  # not yielded yet: it may begin a stop; characters that were
    while True:
        try:
            held += next(pieces)
        except StopIteration as end:
            reason: Reason = end.value
            break
        given = min(max(skip - count, 0), len(held))
        # The one that is complete first, whatever pieces it comes in; the longest of several.
        found = [(at + len(s), at) for s in stops if (at := held.find(s, given)) >= 0]
        last = min(found)[1] if found else len(held) - _beginning(held[given:], stops)
        if last:
            said.append(held[:last])
            count += last
            yield held[:last]
        if found:
            pieces.close()
            return "stop"
        held = held[last:]
    if held:
        said.append(held)
        yield held
    return reason


def _beginning(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of the text begin one of the stops; the most there are."""
    most = min(len(text), max(map(len, stops)) - 1)
    return next((n for n in range(most, 0, -1) if any(s.startswith(text[-n:]) for s in stops)), 0)
