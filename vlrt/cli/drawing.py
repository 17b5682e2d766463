"""Pictures that commands write: refused before anything is computed, or drawn and saved."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from vlrt_runtime.annotate import annotate
from vlrt_runtime.entities import Entity
from vlrt_runtime.errors import InputError, StorageError

__all__ = ["check_drawing", "save_drawing"]


def check_drawing(option: str, path: Path) -> None:
    """Makes sure that a picture could be saved there; `option` is what asked for it.

    Raises:
        InputError: the name tells no format, or there is no such folder.
    """
    if path.suffix.lower() not in Image.registered_extensions():
        raise InputError(f"{option} {path}: expected a name that ends in .png, .jpg or .webp")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{option} {path}: its folder does not exist; make it first")


def save_drawing(image: Image.Image, entities: Iterable[Entity], path: Path) -> None:
    """Saves the picture with the boxes of the entities.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        annotate(image, entities).save(path)
    except OSError as error:
        raise StorageError(f"{path}: it cannot be written: {error}") from error
