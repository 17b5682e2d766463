"""Every error a user can cause, under one root.

A message says what is wrong, where, what was expected and what was found, and what to do. Each leaf
is also the builtin exception that a caller would expect, so `except ValueError` works too.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "CheckpointNotFoundError",
    "ContextLengthError",
    "DeviceError",
    "DownloadError",
    "ImageError",
    "InputError",
    "MissingDependencyError",
    "PackageError",
    "PackageExistsError",
    "PackageNotFoundError",
    "StorageError",
    "VideoError",
    "VlrtError",
    "shortlist",
]


class VlrtError(Exception):
    """Root of all errors that vlrt raises on purpose."""


class InputError(VlrtError, ValueError):
    """An argument, prompt or option that cannot be used."""


class ImageError(InputError):
    """A picture that cannot be read or used."""


class VideoError(InputError):
    """A video that cannot be read or used."""


class ContextLengthError(InputError):
    """A prompt longer than the model's context."""


class PackageError(VlrtError, ValueError):
    """A package whose content is damaged, unsafe or from another version of vlrt."""


class PackageNotFoundError(VlrtError, FileNotFoundError):
    """No package at the place or under the name that was given."""


class PackageExistsError(VlrtError, FileExistsError):
    """The place to write to is taken."""


class CheckpointError(VlrtError, ValueError):
    """A checkpoint with missing, unused, misshapen or unsupported content."""


class CheckpointNotFoundError(VlrtError, FileNotFoundError):
    """No checkpoint at the place or under the name that was given."""


class DownloadError(VlrtError, ConnectionError):
    """A file that could not be fetched from a model hub."""


class DeviceError(VlrtError, RuntimeError):
    """A device that this machine or this installation does not have."""


class StorageError(VlrtError, OSError):
    """The disk is full or cannot be written."""


class MissingDependencyError(VlrtError, ImportError):
    """An optional library that is not installed."""


def shortlist(names: Iterable[object], most: int = 5) -> str:
    """The first few of many names and a count, for messages: `a, b, c, d, e and 7 more`."""
    listed = [str(name) for name in names]
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")
