"""Pictures from anywhere: a path, bytes, a PIL image or a numpy array to an upright RGB picture.

Neither resizes nor normalises; that is `transforms` and the families. What it decides:

- EXIF rotation is applied, to files, bytes and PIL images alike; damaged EXIF data is ignored.
- Transparent pixels are composited on white.
- More than 8 bits are scaled down by their range, see `_value_range`.
- Of an animation or several pages the first is taken, with an `ImageWarning`; of a PIL image the
  frame it stands at, for seeking in it is the caller's business.
- Whatever cannot be used is an `ImageError` that names the picture. Its size is judged by the
  header, before pixels are decoded.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from vlrt_runtime.errors import ImageError, InputError

__all__ = ["FORMATS", "MAX_PIXELS", "ImageSource", "ImageWarning", "load_image", "open_file"]

ImageSource: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[Any]
)

# A picture may come from a stranger, so only widespread formats with well-tried decoders are read:
# Pillow also opens EPS (by Ghostscript), FITS, PSD and many more. JPEG includes the MPO of phones.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

MAX_PIXELS = 64 * 1024 * 1024  # Pillow itself warns above 89 million, refuses above 179 million

_FLOAT_RANGES = ((0.0, 1.0), (0.0, 255.0))


class ImageWarning(UserWarning):
    """A picture that is used in part, such as an animation."""


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads a picture into memory, upright and in mode RGB.

    Args:
        source: A path, the bytes of a file, a PIL image, or an array [H, W], [H, W, 1], [H, W, 3]
            or [H, W, 4] (grey, RGB, RGBA) of dtype uint8, uint16 or float in 0..1 or 0..255.
        max_pixels: Larger pictures are refused; raise it for pictures that you trust.

    Returns:
        The picture. Of a PIL image that needs no change it is the same object, not a copy.

    Raises:
        ImageError: The picture is missing, damaged, too large or of a kind that cannot be read.
    """
    if max_pixels < 1:
        raise InputError(f"max_pixels: expected 1 or more, got {max_pixels}")
    if isinstance(source, str | os.PathLike):
        with open_file(source) as file:
            return _from_file(file, f"'{os.fsdecode(source)}'", max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_file(BytesIO(source), f"the picture given as {len(source)} bytes", max_pixels)
    if isinstance(source, Image.Image):
        return _from_pil(source, max_pixels)
    if isinstance(source, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
        return _from_array(source, max_pixels)
    raise ImageError(
        "not a picture: expected a path, bytes, a PIL image or a numpy array, "
        f"got {type(source).__name__}"
    )


def open_file(
    path: str | os.PathLike[str], what: str = "picture", error_class: type[InputError] = ImageError
) -> BinaryIO:
    """Opens a regular file on this machine; `what` is the word for it in errors."""
    name = os.fsdecode(path)
    if name.lower().startswith(("http:", "https:", "data:")):
        # Cut short, for a data: address is a whole picture.
        raise error_class(f"not a file: '{name[:60]}': nothing is downloaded; give a path or bytes")
    try:
        mode = Path(name).stat().st_mode
        if stat.S_ISREG(mode):  # a pipe could keep us waiting for ever
            return Path(name).open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise error_class(f"{what} cannot be opened: '{name}': {reason}; check the path") from error
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
    raise error_class(f"{kind}, not a {what}: '{name}': give the path of one {what}")


def _from_file(file: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    with _decoding(name):
        header = file.read(16)  # what Pillow's own recognition looks at
        if not header:
            raise ImageError(f"empty picture: {name} has 0 bytes; save or copy it again")
        # Image.open would do, but for its warning of large pictures, which is our error: to hold it
        # back means to change the filters of the whole process, and other threads notice.
        opener = _recognise(header)
        if opener is None:
            raise ImageError(
                f"not a picture that can be read: {name} starts with {header!r}; expected one of "
                f"{', '.join(FORMATS)}; convert it to PNG or JPEG"
            )
        file.seek(0)
        image = opener(file, "")
        _check_size(image.size, name, max_pixels)
        animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        image.load()
        picture = _to_rgb(_upright(image), name)
    if animated:
        warnings.warn(f"{name} has several frames; the first is used", ImageWarning, stacklevel=3)
    return picture


def _from_pil(image: Image.Image, max_pixels: int) -> Image.Image:
    filename = getattr(image, "filename", "")
    name = f"the PIL image of '{filename}'" if filename else "the PIL image"
    _check_size(image.size, name, max_pixels)
    with _decoding(name):
        image.load()  # Pillow reads lazily: a truncated file shows only here
        return _to_rgb(_upright(image), name)


def _from_array(array: NDArray[Any], max_pixels: int) -> Image.Image:
    shape = array.shape
    if not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))):
        raise ImageError(
            "array of the wrong shape: expected (height, width) or (height, width, 1, 3 or 4), "
            f"got {shape}; channels first become last with array.transpose(1, 2, 0)"
        )
    if (kind := array.dtype.kind) != "f" and not (kind == "u" and array.dtype.itemsize <= 2):
        raise ImageError(
            f"array of the wrong dtype: expected uint8, uint16 or float, got {array.dtype}; "
            "convert values of 0..255 with array.astype(numpy.uint8)"
        )
    _check_size((shape[1], shape[0]), "the array", max_pixels)
    if array.dtype != np.uint8:
        low, high = _value_range(array, "the array")
        if kind == "f" and (low, high) not in _FLOAT_RANGES:
            # A file may hold any float; an array like this is most often a normalised tensor.
            raise ImageError(
                f"array values out of range: expected 0..1 or 0..255, got {low:.4g}..{high:.4g}; "
                "give the picture as it was before normalisation"
            )
        array = _scale(array, low, high)
    flat = array[:, :, 0] if array.ndim == 3 and shape[2] == 1 else array
    return _to_rgb(Image.fromarray(flat), "the array")


def _recognise(header: bytes) -> Callable[[BinaryIO, str], Image.Image] | None:
    """What opens a file with these first bytes, if it is of a format that is read here."""
    for load_plugins in (Image.preinit, Image.init):  # the five most common first: 20 ms, not 50
        load_plugins()
        for name in FORMATS:
            opener, fits = Image.OPEN.get(name, (None, None))  # AVIF came with Pillow 11.3
            if opener and fits and fits(header) is True:
                return opener
    return None


@contextmanager
def _decoding(name: str) -> Generator[None]:
    """Turns whatever a decoder throws at foreign bytes into an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"picture too large: {name}: {error}") from error
    except Exception as error:  # OSError, SyntaxError, struct.error, zlib.error, IndexError, ...
        raise ImageError(
            f"picture damaged or cut short: {name} cannot be decoded "
            f"({str(error) or type(error).__name__}); copy or save it again"
        ) from error


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"picture has no pixels: {name} is {width}x{height}; expected 1x1 or more")
    if width * height > max_pixels:
        raise ImageError(
            f"picture too large: {name} is {width}x{height}, {width * height} pixels; "
            f"expected at most {max_pixels}; make it smaller, or raise max_pixels if you trust it"
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        # Asked first, for `exif_transpose` copies the pixels even where nothing is to be turned.
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  damaged EXIF raises anything, and viewers ignore it
        return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_grey(image, name)
    if image.mode in ("La", "RGBa"):  # alpha multiplied in; Pillow converts these only step by step
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_grey(image: Image.Image, name: str) -> Image.Image:
    """From mode I;16, I or F to L; Pillow's own conversion would saturate nearly all to white."""
    values = np.asarray(image)
    grey = _scale(values, *_value_range(values, name))
    transparent: object = image.info.get("transparency")
    if isinstance(transparent, int):  # of a 16-bit PNG: the one value that is transparent
        grey[values == transparent] = 255
    return Image.fromarray(grey)


def _value_range(values: NDArray[Any], name: str) -> tuple[float, float]:
    """The values that are black and white: by the kind of number, or by the picture itself.

    uint16: 0..65535. Float: 0..1 if all values lie there, else 0..255, else lowest..highest.
    int32 (how Pillow gives a 16-bit PGM): 0..65535 if all lie there, else lowest..highest.
    """
    if values.dtype.kind == "u":
        return 0.0, 65535.0
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():  # NaN and infinity both come through min or max
        raise ImageError(f"picture with NaN or infinite values: {name}; expected finite numbers")
    for black, white in _FLOAT_RANGES if values.dtype.kind == "f" else ((0.0, 65535.0),):
        slack = white / 512  # under half a step of 8 bits: noise of arithmetic, rounded away
        if low >= black - slack and high <= white + slack:
            return black, white
    return low, high


def _scale(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    # float32 is exact to the rounding for 16-bit values: none is nearer to a tie than 1/514.
    step = np.float32(255 / (high - low) if high > low else 0)
    return np.rint((values.astype(np.float32) - np.float32(low)) * step).astype(np.uint8)
