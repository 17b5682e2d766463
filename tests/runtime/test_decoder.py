"""The decoder's cache: chunks, growth, one buffer for past and present, several at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.pictures import picture
from vlrt_runtime.backends import Decoder
from vlrt_runtime.backends import onnx_decoder as decoder_module
from vlrt_runtime.families import Layout
from vlrt_runtime.model import Model

LENGTH = 29  # of the prompt: text, a picture, text
STEPS = (15, 270, 105, 55)


@pytest.fixture(scope="module")
def model(small_package: Path) -> Model:
    return Model(small_package, threads=1)


@pytest.fixture(scope="module")
def prompt(model: Model) -> tuple[Layout, np.ndarray]:
    layout, pictures = model.prepare("hi", [picture(90, 60)])
    projected = [model.projector(model.encode(one)) for one in pictures]
    return layout, model.splice(layout, projected)


@pytest.fixture(scope="module")
def whole(model: Model, prompt) -> np.ndarray:
    """Logits [LENGTH + steps, vocab] of prompt and answer in one pass."""
    layout, embeds = prompt
    assert embeds.shape[1] == LENGTH
    everything = np.concatenate([embeds, model.embed(np.array(STEPS))[None]], axis=1)
    inputs = layout.inputs(everything, 0)
    return model.decoder().run(inputs, num_logits=everything.shape[1]).copy()


def close(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, atol=2e-5, rtol=0)


def feed(decoder: Decoder, layout: Layout, embeds: np.ndarray, *, num_logits: int = 1):
    """The next positions, copied, for the array is used again."""
    inputs = layout.inputs(embeds, decoder.length)
    return decoder.run(inputs, num_logits=num_logits).copy()


def answer(model: Model, decoder: Decoder, layout: Layout) -> list[np.ndarray]:
    return [feed(decoder, layout, model.embed(np.array([t]))[None])[-1] for t in STEPS]


@pytest.mark.parametrize(
    "chunks", [(29,), (1,) * 29, (28, 1), (1, 28), (5, 11, 13), (10, 10, 9), (2, 25, 2)]
)
def test_chunks_of_any_split_equal_one_pass(model: Model, prompt, whole, chunks):
    layout, embeds = prompt
    decoder, start = model.decoder(), 0
    for count in chunks:
        part = embeds[:, start : start + count]
        close(feed(decoder, layout, part, num_logits=count), whole[start : start + count])
        start += count
        assert decoder.length == start
    for index, logits in enumerate(answer(model, decoder, layout)):
        close(logits, whole[LENGTH + index])


@pytest.mark.parametrize("count", [1, 2, 15, LENGTH])
def test_the_last_so_many_logits(model: Model, prompt, whole, count):
    layout, embeds = prompt
    logits = feed(model.decoder(), layout, embeds, num_logits=count)
    assert logits.shape == (count, 512)
    assert logits.dtype == np.float32
    close(logits, whole[LENGTH - count : LENGTH])


@pytest.mark.parametrize("count", [0, -1, LENGTH + 1])
def test_more_logits_than_positions_are_refused(model: Model, prompt, count):
    layout, embeds = prompt
    decoder = model.decoder()
    with pytest.raises(ValueError, match=f"num_logits {count}: expected 1 to {LENGTH}"):
        feed(decoder, layout, embeds, num_logits=count)
    assert decoder.length == 0


@pytest.mark.parametrize("smallest", [1, 3, LENGTH, LENGTH + 2])
def test_a_cache_that_grows_keeps_what_it_holds(
    model: Model, prompt, whole, smallest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decoder_module, "SMALLEST", smallest)
    layout, embeds = prompt
    decoder, sizes = model.decoder(), []
    for index in range(LENGTH):
        close(feed(decoder, layout, embeds[:, index : index + 1])[-1], whole[index])
        sizes.append(decoder._capacity)
    for index, logits in enumerate(answer(model, decoder, layout)):
        close(logits, whole[LENGTH + index])
    assert len(set(sizes)) <= 6, "it doubles: copies stay rare"


def test_past_and_present_are_one_buffer(model: Model, prompt):
    layout, embeds = prompt
    decoder = model.decoder()
    decoder.reserve(64)
    for buffer in decoder._cache.values():
        buffer.fill(np.nan)
    kept = {name: buffer.ctypes.data for name, buffer in decoder._cache.items()}
    assert len(kept) == 6
    feed(decoder, layout, embeds)
    before = {name: buffer.copy() for name, buffer in decoder._cache.items()}
    answer(model, decoder, layout)
    total = LENGTH + len(STEPS)
    for name, buffer in decoder._cache.items():
        assert buffer.ctypes.data == kept[name]
        assert np.isfinite(before[name][:, :, :LENGTH]).all(), "written where we look"
        np.testing.assert_array_equal(buffer[:, :, :LENGTH], before[name][:, :, :LENGTH])
        assert np.isfinite(buffer[:, :, LENGTH:total]).all()
        assert np.isnan(buffer[:, :, total:]).all(), "the tail is neither read nor written"


def test_steps_bind_nothing_anew(model: Model, prompt, monkeypatch: pytest.MonkeyPatch):
    layout, embeds = prompt
    decoder, made = model.decoder(), []
    feed(decoder, layout, embeds)
    answer(model, decoder, layout)
    original = decoder_module.ort.OrtValue.ortvalue_from_numpy
    monkeypatch.setattr(
        decoder_module.ort.OrtValue,
        "ortvalue_from_numpy",
        lambda array: made.append(array.shape) or original(array),
    )
    answer(model, decoder, layout)
    assert made == []


def test_two_sequences_side_by_side(model: Model, prompt, whole):
    layout, embeds = prompt
    other_layout, _ = model.prepare("Quite another text, and a longer one")
    other_embeds = model.splice(other_layout, [])
    alone = model.decoder()
    first = feed(alone, other_layout, other_embeds)
    expected = [first, *answer(model, alone, other_layout)]
    one, two = model.decoder(), model.decoder()
    close(feed(one, layout, embeds)[-1], whole[LENGTH - 1])
    close(feed(two, other_layout, other_embeds), expected[0])
    for index, token in enumerate(STEPS):
        row = model.embed(np.array([token]))[None]
        close(feed(one, layout, row)[-1], whole[LENGTH + index])
        close(feed(two, other_layout, row)[-1], expected[index + 1])


def test_the_logits_array_is_used_again(model: Model, prompt):
    layout, embeds = prompt
    decoder = model.decoder()
    decoder.run(layout.inputs(embeds, 0))
    row = model.embed(np.array([3]))[None]
    first = decoder.run(layout.inputs(row, decoder.length))
    kept = first.copy()
    second = decoder.run(layout.inputs(row, decoder.length))
    assert second is first
    assert not np.array_equal(kept, second)


def test_arrays_that_are_no_rows_in_memory_are_taken(model: Model, prompt, whole):
    layout, embeds = prompt
    strided = np.asfortranarray(embeds)
    assert not strided.flags.c_contiguous
    close(feed(model.decoder(), layout, strided)[-1], whole[LENGTH - 1])


def test_a_failed_step_changes_nothing(model: Model, prompt, whole):
    layout, embeds = prompt
    decoder = model.decoder()
    feed(decoder, layout, embeds)
    wrong = layout.inputs(embeds[:, :1, :-1], LENGTH)
    with pytest.raises(Exception, match=r"inputs_embeds|dimension"):
        decoder.run(wrong)
    assert decoder.length == LENGTH
    for index, logits in enumerate(answer(model, decoder, layout)):
        close(logits, whole[LENGTH + index])
