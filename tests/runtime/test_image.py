"""Pictures of every mode, format and kind of damage; files are made here, in a temporary folder."""

import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlrt_runtime.errors import ImageError, InputError
from vlrt_runtime.image import FORMATS, ImageWarning, load_image

RED = (200, 30, 40)
CAN_AVIF = "AVIF" in (Image.init(), Image.SAVE)[1]


@pytest.fixture(autouse=True)
def every_warning_is_an_error():
    """A file left open (ResourceWarning) or a remark of Pillow's fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


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


# ------------------------------------------------------------------ sources and formats


@pytest.mark.parametrize(
    "make", [str, Path, lambda p: p.read_bytes(), lambda p: bytearray(p.read_bytes())]
)
def test_a_path_and_bytes_are_read(tmp_path, make):
    values = noise()
    path = tmp_path / "a b ü.png"
    Image.fromarray(values).save(path)
    assert np.array_equal(pixels(make(path)), values)


def test_a_pil_image_that_needs_nothing_is_not_copied():
    image = Image.fromarray(noise())
    assert load_image(image) is image


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_every_format_is_read_and_usable_once_its_file_is_closed(tmp_path, kind):
    if kind == "AVIF" and not CAN_AVIF:
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / "picture.wrong"  # content decides, not the name
    Image.fromarray(noise()).save(path, kind)
    with Image.open(path) as expected:
        expected = np.asarray(expected.convert("RGB"))
    image = load_image(path)
    path.unlink()
    assert np.array_equal(np.asarray(image), expected)
    assert image.resize((5, 5)).size == (5, 5)
    assert image.copy().transpose(Image.Transpose.ROTATE_90).size == (24, 32)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
def test_an_image_read_lazily_by_the_caller(tmp_path, kind):
    path = tmp_path / "picture"
    Image.fromarray(noise()).save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(path) as image:
        got = pixels(image)
    assert np.array_equal(got, pixels(path))


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


# ------------------------------------------------------------------ arrays


def test_uint8_arrays():
    rgb, grey, rgba = noise(), noise(channels=1), noise(channels=4)
    assert np.array_equal(pixels(rgb), rgb)
    assert np.array_equal(pixels(rgb[::-1, ::2]), rgb[::-1, ::2])
    assert np.array_equal(pixels(grey), np.repeat(grey[:, :, None], 3, 2))
    assert np.array_equal(pixels(grey[:, :, None]), np.repeat(grey[:, :, None], 3, 2))
    assert np.array_equal(pixels(rgba), on_white(Image.fromarray(rgba)))


def test_an_array_changed_later_does_not_change_the_picture():
    values = noise()
    before = values.copy()
    image = load_image(values)
    values[:] = 0
    assert np.array_equal(np.asarray(image), before)


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_uint16_arrays(channels, dtype):
    values = noise(channels=channels, dtype=np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    if channels == 1:
        expected = np.repeat(expected[:, :, None], 3, 2)
    assert np.array_equal(pixels(values.astype(dtype)), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("limit", [1, 255])
def test_float_arrays_give_back_their_bytes(dtype, limit):
    values = noise()
    values[0, 0] = 255
    scaled = (values / (255 / limit)).astype(dtype)
    assert np.array_equal(pixels(scaled), values)
    alpha = np.dstack([values, np.zeros_like(values[:, :, :1])]) / 255
    assert (pixels(alpha.astype(dtype)) == 255).all()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 20, 20), np.uint8), r"wrong shape.*\(3, 20, 20\).*transpose"),
        (np.zeros((20, 20, 2), np.uint8), r"wrong shape.*\(20, 20, 2\)"),
        (np.zeros((1, 20, 20, 3), np.uint8), r"wrong shape"),
        (np.zeros(20, np.uint8), r"wrong shape.*\(20,\)"),
        (np.zeros((), np.uint8), r"wrong shape"),
        (np.zeros((0, 20, 3), np.uint8), r"no pixels.*20x0"),
        (np.zeros((20, 0), np.float32), r"no pixels.*0x20"),
        (np.zeros((20, 20), np.int64), r"wrong dtype.*int64.*astype"),
        (np.zeros((20, 20), bool), r"wrong dtype.*bool"),
        (np.zeros((20, 20), np.uint32), r"wrong dtype.*uint32"),
        (np.zeros((20, 20), complex), r"wrong dtype.*complex128"),
        (np.full((20, 20), None), r"wrong dtype.*object"),
        (np.full((20, 20, 3), np.nan), r"NaN or infinite.*the array"),
        (np.full((20, 20, 3), np.inf, np.float32), r"NaN or infinite"),
        (np.array([[0.0, -np.inf]]), r"NaN or infinite"),
        (np.array([[0.0, np.nan, 1.0]]), r"NaN or infinite"),
        (np.array([[-2.1, 2.6]]), r"out of range.*-2\.1\.\.2\.6.*normalis"),
        (np.array([[0.0, 256.0]]), r"out of range.*0\.\.256"),
    ],
)
def test_arrays_that_are_no_pictures(array, says):
    with pytest.raises(ImageError, match=says):
        load_image(array)


# ------------------------------------------------------------------ rotation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_of_files_bytes_and_pil_images(tmp_path, kind, orientation):
    image = Image.new("RGB", (32, 16), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 8, 8))  # black where the first row meets the first column
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned"
    image.save(path, kind, exif=exif)
    corner = {1: "nw", 2: "ne", 3: "se", 4: "sw", 5: "nw", 6: "ne", 7: "se", 8: "sw"}[orientation]
    with Image.open(path) as lazy:
        size = lazy.size
        got = [pixels(path), pixels(path.read_bytes()), pixels(lazy)]
        if kind != "TIFF":  # which Pillow itself turns when it loads
            assert lazy.size == size, "the caller's image stays as it is"
    for values in got:
        assert values.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
        dark = values[4 if "n" in corner else -5, 4 if "w" in corner else -5]
        assert (dark < 60).all()
        assert values.mean() > 200


def test_a_rotated_picture_given_back_is_not_rotated_twice():
    exif = Image.Exif()
    exif[0x0112] = 6
    once = load_image(encode(Image.fromarray(noise()), exif=exif))
    assert once.size == (24, 32)
    assert load_image(once).size == (24, 32)


def test_damaged_exif_data_is_ignored():
    values = noise()
    file = encode(Image.fromarray(values), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 40)
    assert np.array_equal(pixels(file), values)


# ------------------------------------------------------------------ several frames


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_several_with_a_warning(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    path = tmp_path / "film"
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
    with pytest.warns(ImageWarning, match=r"film.*first is used") as caught:
        got = pixels(path)
    assert caught[0].filename == __file__
    assert tuple(got[0, 0]) == RED
    with pytest.warns(ImageWarning, match="bytes"):
        image = load_image(path.read_bytes())
    assert image.resize((2, 2)).getpixel((0, 0)) == RED


def test_the_second_picture_of_a_phone_is_no_animation():
    image = Image.fromarray(noise())
    file = encode(image, "MPO", save_all=True, append_images=[image.resize((8, 8))])
    with Image.open(BytesIO(file)) as both:
        both.seek(1)  # it is there
    assert load_image(file).size == (32, 24)


def test_a_pil_image_counts_as_the_frame_it_stands_at():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    file = BytesIO(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    with Image.open(file) as image:
        image.seek(1)
        assert tuple(pixels(image)[0, 0]) == (0, 0, 255)
        assert image.tell() == 1


# ------------------------------------------------------------------ refusals


def refusal(source, **options):
    with pytest.raises(ImageError) as caught:
        load_image(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(("!", "."))
    return message


def test_places_that_hold_no_picture(tmp_path):
    missing, empty = tmp_path / "missing.png", tmp_path / "empty.png"
    empty.touch()
    assert "missing.png': No such file" in refusal(missing)
    assert "a folder, not a picture" in refusal(tmp_path)
    assert "empty.png' has 0 bytes" in refusal(empty)
    assert "0 bytes" in refusal(b"")
    assert "cannot be opened" in refusal("a\0b.png")
    assert "cannot be opened" in refusal("x" * 5000)
    assert "nothing is downloaded" in refusal("https://example.org/a.png")
    assert len(refusal("data:image/png;base64," + "A" * 10_000)) < 200


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe or device" in refusal(tmp_path / "pipe")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encode(Image.fromarray(noise())))
    path.chmod(0)
    assert "secret.png': Permission denied" in refusal(path)


@pytest.mark.parametrize("thing", [None, 3, [1, 2], {"a": 1}, Image])
def test_things_that_are_no_source(thing):
    assert f"got {type(thing).__name__}" in refusal(thing)


@pytest.mark.parametrize(
    "content",
    [b"hello, this is text", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7", b"8BPS\0\1", b"x"],
)
def test_other_kinds_of_file_are_named_with_their_first_bytes(tmp_path, content):
    path = tmp_path / "other.png"
    path.write_bytes(content)
    message = refusal(path)
    assert "other.png' starts with" in message
    assert repr(content[:16]) in message
    assert "PNG" in message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_files_cut_anywhere_are_refused_by_name(tmp_path, kind):
    if kind == "AVIF" and not CAN_AVIF:
        pytest.skip("this Pillow has no AVIF")
    whole = encode(Image.fromarray(noise(64, 64)), kind)
    path = tmp_path / "cut.file"
    for length in (1, 2, 3, 8, 12, 20, 40, len(whole) // 2, len(whole) - len(whole) // 20):
        path.write_bytes(whole[:length])
        message = refusal(path)
        assert "cut.file'" in message
        assert "damaged or cut short" in message or "starts with" in message
    assert "damaged or cut short" in message, "recognised, yet not decodable"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_a_cut_file_that_the_caller_opened(tmp_path, kind):
    whole = encode(Image.fromarray(noise(64, 64)), kind)
    path = tmp_path / "cut.file"
    path.write_bytes(whole[: len(whole) // 2])
    with Image.open(path) as lazy:
        message = refusal(lazy)
    assert "the PIL image of '" in message
    assert "cut.file' cannot be decoded" in message


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_no_file_stays_open(tmp_path):
    frames = [Image.fromarray(noise(seed=seed)) for seed in (0, 1)]
    good, film, cut, other = (tmp_path / name for name in ("good", "film", "cut", "other"))
    good.write_bytes(encode(frames[0]))
    film.write_bytes(encode(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    cut.write_bytes(encode(frames[0])[:400])
    other.write_bytes(b"text")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.warns(ImageWarning):
        kept = [load_image(path) for path in (good, film)]
    refusal(cut)
    refusal(other)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(kept) == 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_files_with_flipped_bytes_are_read_or_refused(kind):
    whole = encode(Image.fromarray(noise(16, 16)), kind)
    draws = np.random.default_rng(1)
    for _ in range(150):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[draws.integers(0, len(whole), 4)] = draws.integers(0, 256, 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImageWarning)
            with suppress(ImageError):
                load_image(damaged.tobytes(), max_pixels=1 << 16)


def test_pictures_without_pixels():
    assert "no pixels" in refusal(Image.new("RGB", (0, 5)))
    assert "damaged" in refusal(png(0, 1, rows=b"\0"))


def test_large_pictures_are_refused_from_their_header_unless_asked_for():
    bomb = png(8300, 8300, depth=1, rows=b"")
    assert "8300x8300" in refusal(bomb)
    assert "raise max_pixels" in refusal(bomb)
    assert "10000x9500" in refusal(png(10_000, 9_500)), "Pillow only warns of this one"
    assert "damaged" in refusal(png(10_000, 9_500, depth=1), max_pixels=10**9)
    assert "60000x60000" in refusal(png(60_000, 60_000), max_pixels=10**9)
    assert "damaged" in refusal(png(60_000, 60_000, depth=1)[:50], max_pixels=10**10)
    rows = bytes(9_501 * 1251)
    assert load_image(png(10_000, 9_501, depth=1, rows=rows), max_pixels=10**9).size == (
        10_000,
        9_501,
    )


def test_the_limit_holds_for_every_source(tmp_path):
    image = Image.fromarray(noise(10, 10))
    path = tmp_path / "a.png"
    image.save(path)
    for source in (path, path.read_bytes(), image, np.asarray(image)):
        assert "10x10, 100 pixels; expected at most 99" in refusal(source, max_pixels=99)
        assert load_image(source, max_pixels=100).size == (10, 10)
    with pytest.raises(InputError, match="max_pixels"):
        load_image(image, max_pixels=0)


def test_threads_do_not_disturb_each_other():
    values, filters = noise(), list(warnings.filters)
    file = encode(Image.fromarray(values))
    with ThreadPoolExecutor(8) as threads:
        assert all(np.array_equal(got, values) for got in threads.map(pixels, [file] * 100))
    assert warnings.filters == filters, "these belong to the whole process"


def test_float_files_with_nan_are_refused():
    image = Image.fromarray(np.array([[0.0, np.nan]], np.float32))
    assert "NaN or infinite values: the picture" in refusal(encode(image, "TIFF"))


def test_an_image_error_is_a_value_error_too():
    with pytest.raises(ValueError, match="empty"):
        load_image(b"")
