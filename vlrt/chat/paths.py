r"""Files in a line of text, as terminals write them when they are dropped in.

By a shell's rules ('a b.png', a\ b.png), in double quotes on Windows, or as a file: address.
"""

from __future__ import annotations

import os.path
import re
import shlex
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from PIL import Image

from vlrt_runtime.errors import InputError
from vlrt_runtime.image import FORMATS

__all__ = ["find_pictures", "read_paths"]

# What a dropped path begins with, and what a shell takes for one word.
BEGIN = r"""(?=file:|['"]|/|~[/\\]|[A-Za-z]:[/\\]|\\\\)"""
LETTER = r"[^\s'\"]" if os.name == "nt" else r"\\.|[^\s'\"\\]"
WORD = rf"""(?:'[^']*'|"[^"]*"|{LETTER})+(?!\S)"""
DROPPED = re.compile(rf"(?<!\S){BEGIN}{WORD}")
ANY = re.compile(rf"(?<!\S){WORD}")


def find_pictures(line: str) -> tuple[list[Path], str]:
    """The pictures that were dropped into a line, and the text before and behind them.

    Only whole paths with the ending of a picture count, and any path to one that has a line for
    itself: other words may be about files.

    Raises:
        InputError: there is no such picture.
    """
    alone = Path(os.path.expanduser(line.strip()))  # noqa: PTH111  never fails
    if alone.suffix.lower() in _endings() and os.path.exists(alone):  # noqa: PTH110
        return [alone], ""
    found: list[Path] = []

    def take(word: re.Match[str]) -> str:
        path = _path(word[0])
        if not path.is_absolute() or path.suffix.lower() not in _endings():
            return word[0]
        if not os.path.exists(path):  # noqa: PTH110  Path's own fails on names that cannot be
            raise InputError(f"picture cannot be opened: '{path}': no such file; check the path")
        found.append(path)
        return ""

    rest = DROPPED.sub(take, line)
    return found, rest.strip() if found else line


def read_paths(text: str) -> list[Path]:
    """The paths behind a command: one that is there as typed, else words as a shell has them.

    Raises:
        InputError: a quote has no end.
    """
    text = text.strip()
    typed = os.path.expanduser(text)  # noqa: PTH111
    if os.path.exists(typed):  # noqa: PTH110
        return [Path(typed)]
    if ANY.sub("", text).strip():
        raise InputError(f"{text}: a quote has no end; put the whole name in quotes")
    return [_path(word) for word in ANY.findall(text)]


def _path(word: str) -> Path:
    """What a word stands for: without its quotes, or out of a file: address."""
    bare = word.replace('"', "") if os.name == "nt" else "".join(shlex.split(word))
    if bare.lower().startswith("file:"):
        bare = url2pathname(urlsplit(bare).path)
    return Path(os.path.expanduser(bare))  # noqa: PTH111


@cache
def _endings() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset(ending for ending, kind in known.items() if kind in FORMATS)
