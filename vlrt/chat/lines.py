"""Where lines come from: a terminal with history and editing, a plain one, or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Protocol

from vlrt_runtime.errors import InputError

__all__ = ["PROMPT", "Lines", "PipeLines", "PlainLines", "open_lines"]

PROMPT = "> "


class Lines(Protocol):
    """Lines that somebody types, or a program writes.

    Attributes:
        terminal: somebody sits there: Ctrl-C stops an answer, and not the program.
    """

    terminal: bool

    def read(self, suggestion: str = "") -> str:
        """The next line; `suggestion` stands there to be changed, where that is possible.

        Raises:
            EOFError: there are no more.
            InputError: this one is no text.
        """
        ...


class PipeLines:
    """Lines of standard input."""

    terminal = False

    def read(self, suggestion: str = "") -> str:
        """See `Lines`."""
        line = sys.stdin.buffer.readline()
        if not line:
            raise EOFError
        try:
            return line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"standard input: not UTF-8 text: {error}") from error


class PlainLines:
    """A terminal without prompt_toolkit, with what Python itself has for it."""

    terminal = True

    def read(self, suggestion: str = "") -> str:
        """See `Lines`."""
        print(PROMPT, end="", file=sys.stderr, flush=True)
        try:
            return input()
        except UnicodeDecodeError as error:
            raise InputError(f"this line is not text: {error}") from error


def open_lines(commands: Iterable[str]) -> Lines:
    """What suits standard input and output; `commands` are names to be completed."""
    if not sys.stdin.isatty():
        return PipeLines()
    if not sys.stdout.isatty():  # an editor would draw there
        return PlainLines()
    try:
        from vlrt.chat.terminal import TerminalLines
    except ModuleNotFoundError:
        print("vlrt: note: for history and editing: pip install 'vlrt[chat]'", file=sys.stderr)
        return PlainLines()
    return TerminalLines(commands)
