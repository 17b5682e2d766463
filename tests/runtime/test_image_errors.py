"""Files and things that hold no picture, of every kind of damage, are refused by name."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.images import CAN_AVIF, encode, noise, pixels, png
from vlrt_runtime.errors import ImageError, InputError
from vlrt_runtime.image import ImageWarning, load_image

# A file left open (ResourceWarning) or a remark of Pillow's fails the test.
pytestmark = pytest.mark.filterwarnings("error")


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
