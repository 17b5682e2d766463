"""Pictures of every source and format; files are made here, in a temporary folder."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.images import CAN_AVIF, RED, encode, noise, on_white, pixels
from vlrt_runtime.errors import ImageError
from vlrt_runtime.image import FORMATS, ImageWarning, load_image

# A file left open (ResourceWarning) or a remark of Pillow's fails the test.
pytestmark = pytest.mark.filterwarnings("error")


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
        got = np.asarray(load_image(path))
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
