"""Errors in one line, and the exit status that each one means."""

from __future__ import annotations

import sys
import traceback

from vlrt_runtime.errors import VlrtError

__all__ = ["fail", "tell"]


def tell(error: Exception, *, debug: bool = False) -> int:
    """Tells of an error that is being handled; returns 2 for the user's mistake, 1 for a fault."""
    if isinstance(error, VlrtError):
        return fail(str(error), 2, debug=debug)
    return fail(f"fault: {type(error).__name__}: {error}; --debug shows where", 1, debug=debug)


def fail(message: str, status: int, *, debug: bool = False) -> int:
    """Prints a message as one line, below the traceback where that is wanted."""
    if debug:
        traceback.print_exc()
    print("vlrt: " + " ".join(message.split()), file=sys.stderr, flush=True)
    return status
