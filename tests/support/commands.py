"""What a command printed, judged."""

from __future__ import annotations

__all__ = ["told"]


def told(outcome: tuple[int, str, str], status: int) -> str:
    """The one line of an error; nothing else was printed."""
    assert outcome[:2] == (status, ""), outcome
    assert outcome[2].startswith("vlrt: ")
    assert outcome[2].count("\n") == 1
    assert outcome[2].endswith("\n")
    return outcome[2]
