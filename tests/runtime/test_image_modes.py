"""Pictures of every mode: transparency on white, more than 8 bits scaled to 8."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from support.images import RED, encode, noise, on_white, pixels, png

# A file left open (ResourceWarning) or a remark of Pillow's fails the test.
pytestmark = pytest.mark.filterwarnings("error")


# ------------------------------------------------------------------ modes


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_modes_without_transparency_convert_as_pillow_does(mode):
    image = Image.fromarray(noise()).convert(mode)
    assert np.array_equal(pixels(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_modes_in_files(mode):
    rgba = Image.fromarray(noise(channels=4))
    image = rgba.convert("RGB").convert(mode) if mode != "RGBA" else rgba
    kind = "TIFF" if mode == "CMYK" else "PNG"
    expected = (
        on_white(image.convert("RGBA")) if mode != "CMYK" else np.asarray(image.convert("RGB"))
    )
    assert np.array_equal(pixels(encode(image, kind)), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_transparency_is_composited_on_white(mode):
    rgba = Image.fromarray(noise(channels=4))
    image = {
        "RGBA": lambda: rgba,
        "LA": lambda: rgba.convert("LA"),
        "La": lambda: rgba.convert("LA").convert("La"),
        "RGBa": lambda: rgba.convert("RGBa"),
        "PA": lambda: rgba.convert("LA").convert("PA"),
    }[mode]()
    assert image.mode == mode
    plain = image.convert(mode.upper()) if mode in ("La", "RGBa") else image
    assert np.array_equal(pixels(image), on_white(plain.convert("RGBA")))


def test_fully_transparent_is_white_and_opaque_is_itself():
    values = noise(channels=4)
    values[:12, :, 3] = 0
    values[12:, :, 3] = 255
    got = pixels(encode(Image.fromarray(values)))
    assert (got[:12] == 255).all()
    assert np.array_equal(got[12:], values[12:, :, :3])


def test_a_palette_with_a_transparent_entry():
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((0, 0), 0)
    for file in (encode(image, transparency=0), encode(image, "GIF", transparency=0)):
        got = pixels(file)
        assert tuple(got[0, 0]) == (255, 255, 255)
        assert tuple(got[1, 3]) == RED


def test_a_palette_with_alpha_for_each_entry():
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((0, 0), 0)
    got = pixels(encode(image, transparency=bytes([0, 255])))
    assert got.tolist() == [[[255, 255, 255], list(RED)]]
    four = Image.new("P", (1, 1), 0)
    four.putpalette([*RED, 0], "RGBA")
    assert pixels(four).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(
    ("mode", "key", "other"), [("L", 7, 90), ("RGB", (1, 2, 3), (9, 9, 9)), ("1", 0, 1)]
)
def test_a_colour_named_transparent(mode, key, other):
    image = Image.new(mode, (2, 1), other)
    image.putpixel((0, 0), key)
    got = pixels(encode(image, transparency=key))
    assert got[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(got[0, 1], np.asarray(image.convert("RGB"))[0, 1])


# ------------------------------------------------------------------ more than 8 bits


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_files_are_scaled(kind):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    # Pillow before 11 writes no PPM from uint16, and any Pillow reads one as 32-bit integers.
    image = Image.fromarray(values.astype(np.int32) if kind == "PPM" else values)
    got = pixels(encode(image, kind))
    assert np.array_equal(got[:, :, 0], np.rint(values / 257).astype(np.uint8))


def test_16_bit_grey_with_a_transparent_value():
    rows = b"\0" + struct.pack(">3H", 0x1234, 0x1235, 0xFFFF)
    length_kind_data = struct.pack(">I", 2) + b"tRNS" + struct.pack(">H", 0x1234)
    extra = length_kind_data + struct.pack(">I", zlib.crc32(length_kind_data[4:]))
    got = pixels(png(3, 1, depth=16, rows=rows, extra=extra))
    assert got[0, :, 0].tolist() == [255, 18, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 1.0001, 0.25], [0, 255, 64]),  # noise of arithmetic over 1 is no 0..255 picture
        ([0.0, 127.6, 255.0], [0, 128, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([500.0, 600.0, 1000.0], [0, 51, 255]),
        ([700.0, 700.0, 700.0], [0, 0, 0]),
    ],
)
def test_float_pictures_are_scaled_by_their_range(values, expected):
    image = Image.fromarray(np.array([values], np.float32))
    assert image.mode == "F"
    assert pixels(image)[0, :, 0].tolist() == expected
    assert pixels(encode(image, "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 32768, 65535], [0, 128, 255]),
        ([0, 50, 200], [0, 0, 1]),
        ([-500, 0, 100000], [0, 1, 255]),
    ],
)
def test_integer_pictures_are_scaled_by_their_range(values, expected):
    image = Image.fromarray(np.array([values], np.int32))
    assert image.mode == "I"
    assert pixels(image)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_16_bit_modes_of_either_byte_order(mode):
    raw = np.array([[0, 257, 65535]], "<u2" if mode != "I;16B" else ">u2").tobytes()
    assert pixels(Image.frombytes(mode, (3, 1), raw))[0, :, 0].tolist() == [0, 1, 255]
