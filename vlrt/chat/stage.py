"""What is being done until an answer begins: a line in the terminal, gone when words come."""

from __future__ import annotations

import sys

from vlrt_runtime.options import Progress

__all__ = ["StageLine"]

STAGES = {
    "queued": "waiting",
    "preprocess": "reading",
    "encode": "looking at the picture",
    "project": "looking at the picture",
    "prefill": "reading",
}
CLEAR = "\r\x1b[K"


class StageLine:
    """A line on standard error, where that is a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = ""

    def show(self, progress: Progress) -> None:
        """Says what an answer is at; nothing once it has words."""
        what = STAGES.get(progress.stage)
        if what is None or not self._terminal:
            return
        if progress.total > 1:
            what += f" {progress.done} of {progress.total}"
        if what != self._shown:
            print(f"{CLEAR}{what} ...", end="", file=sys.stderr, flush=True)
            self._shown = what

    def clear(self) -> None:
        """Takes the line away."""
        if self._shown:
            print(CLEAR, end="", file=sys.stderr, flush=True)
            self._shown = ""

    def __enter__(self) -> StageLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
