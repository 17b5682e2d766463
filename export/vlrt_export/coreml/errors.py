"""What can go wrong on the way to Core ML."""

from __future__ import annotations

from vlrt_runtime.errors import VlrtError

__all__ = ["LintError", "LoweringError"]


class LoweringError(VlrtError, NotImplementedError):
    """An operator, or a use of it, that the table has no rule for."""


class LintError(VlrtError, ValueError):
    """A program that is known to fail on a device that it was made for."""
