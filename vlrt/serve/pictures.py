"""A request's pictures: from `data:` addresses, and from elsewhere where the options allow it.

Addresses become the bytes of files here, before the request waits for its turn; they are decoded
when it has come, so that a request that waits holds no more than it sent.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from PIL import Image

from vlrt.serve.errors import ApiError
from vlrt.serve.options import ServeOptions
from vlrt_runtime.errors import ImageError
from vlrt_runtime.image import load_image, open_file

__all__ = ["decoded", "picture_bytes"]


def picture_bytes(url: str, where: str, options: ServeOptions) -> bytes:
    """The bytes of the file at an address; blocks where that has to be fetched.

    Raises:
        ApiError: it cannot be read, or the options do not allow it.
    """
    scheme = url[:8].partition(":")[0].lower()
    if scheme == "data":
        return _data(url, where)
    if scheme in ("http", "https"):
        if not options.allow_picture_urls:
            raise _refused(where, "pictures are not fetched (--allow-picture-urls would)")
        from vlrt.serve.fetch import fetch

        return fetch(url, where, options.max_body)
    if options.picture_folder is None:
        raise _refused(where, "files are not read (--picture-folder DIR would allow those in it)")
    return _file(url, where, options.picture_folder, options.max_body)


def decoded(sources: Sequence[bytes], max_pixels: int) -> list[Image.Image]:
    """The pictures, of so many pixels together at most.

    Raises:
        ImageError: one cannot be used, or they are too large.
    """
    left, pictures = max_pixels, list[Image.Image]()
    for source in sources:
        if left < 1:
            raise ImageError(f"pictures: they have more than {max_pixels} pixels together")
        pictures.append(load_image(source, max_pixels=left))
        left -= pictures[-1].width * pictures[-1].height
    return pictures


def _data(url: str, where: str) -> bytes:
    head, comma, content = url[5:].partition(",")
    if not comma:
        raise _refused(where, "a data address without a comma, expected data:image/png;base64,...")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(content)
    try:
        return base64.b64decode(unquote(content) if "%" in content else content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refused(where, f"not base64: {error}") from None


def _file(url: str, where: str, folder: Path, most: int) -> bytes:
    """A file in the folder; links and `..` are followed first, so that they lead nowhere else."""
    parts = urlsplit(url) if url.lower().startswith("file:") else None
    path = folder / (unquote(parts.path) if parts else url)
    outside = _refused(where, "no picture of the server's folder")
    try:
        path = path.resolve()
        if not path.is_relative_to(folder.resolve()):
            raise outside
        with open_file(path) as file:
            content = file.read(most + 1)
    except (ImageError, OSError, ValueError):  # whether a file is there is told to nobody
        raise outside from None
    if len(content) > most:
        raise _refused(where, f"a file of more than {most} bytes")
    return content


def _refused(where: str, why: str) -> ApiError:
    return ApiError(400, f"{where}: {why}; send a data:image/...;base64 address", param=where,
                    code="invalid_image_url")  # fmt: skip
