"""Pictures as tests of `load_image` want them: noise, odd files, and pixels."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

from vlrt_runtime.image import load_image

RED = (200, 30, 40)
CAN_AVIF = "AVIF" in (Image.init(), Image.SAVE)[1]


def noise(height=24, width=32, channels=3, dtype: type[np.unsignedinteger] = np.uint8, seed=0):
    top = np.iinfo(dtype).max
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, top, shape, dtype=dtype, endpoint=True)


def encode(image, kind="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, *, depth=8, colour=0, rows=b"", extra=b""):
    """A PNG file that an honest writer would not make."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def pixels(source, **options):
    image = load_image(source, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def on_white(rgba):
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
