"""What is kept between prompts: answers are those of a model that keeps nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.pictures import checker, gradient, picture
from vlrt_runtime.errors import InputError
from vlrt_runtime.model import Model
from vlrt_runtime.reuse import FeatureStore, position_keys

IMAGE = {"type": "image"}
PICTURE = picture(90, 60)
FIRST, SECOND = "What is this?", "What is it for, and where?"
NEW = 12
# A prompt in two parts sums in another order than in one: as the decoder's own tests have it.
CLOSE = 2e-5


def user(*parts: Any) -> dict[str, Any]:
    words = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": words}


def cold(package: Path, **options: Any) -> Model:
    return Model(package, threads=1, image_cache_mb=0, prefix_cache_mb=0, **options)


def counted(model: Model, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often encoder and projector run, and positions that the decoder is given."""
    counts = {"vision_encoder": 0, "projector": 0, "positions": 0}
    for name in ("vision_encoder", "projector"):
        original = getattr(model, name)

        def run(inputs: Any, name: str = name, original: Any = original) -> Any:
            counts[name] += 1
            return original(inputs)

        monkeypatch.setattr(model, name, run)
    prefill = model.prefill

    def fill(decoder: Any, layout: Any, embeds: Any, *rest: Any) -> Any:
        counts["positions"] += embeds.shape[1]
        return prefill(decoder, layout, embeds, *rest)

    monkeypatch.setattr(model, "prefill", fill)
    return counts


@pytest.fixture
def warm(small_package: Path) -> Model:
    return Model(small_package, threads=1)


@pytest.fixture(scope="module")
def fresh(small_package: Path) -> Callable[..., list[int]]:
    """Token ids by a model that keeps nothing."""
    model = cold(small_package)
    return lambda prompt, images=(): (
        model.generate(prompt, images=list(images), max_new_tokens=NEW).token_ids
    )


# ------------------------------------------------------------------ keys and values


def test_a_second_question_computes_neither_picture_nor_what_is_before_it(
    warm: Model, fresh, monkeypatch: pytest.MonkeyPatch
):
    counts = counted(warm, monkeypatch)
    first = warm.generate(FIRST, images=[PICTURE], max_new_tokens=NEW)
    assert (counts["vision_encoder"], counts["projector"], first.cached_tokens) == (1, 1, 0)
    second = warm.generate(SECOND, images=[PICTURE], max_new_tokens=NEW)
    assert (counts["vision_encoder"], counts["projector"]) == (1, 1)
    one, two = (warm.prepare(text, [PICTURE])[0].token_ids.tolist() for text in (FIRST, SECOND))
    shared = next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    assert shared > second.image_tokens
    assert second.cached_tokens == shared
    assert counts["positions"] == len(one) + len(two) - shared
    assert first.token_ids == fresh(FIRST, [PICTURE])
    assert second.token_ids == fresh(SECOND, [PICTURE])


def test_the_same_question_again_computes_its_last_position(warm: Model, fresh):
    answers = [warm.generate(FIRST, images=[PICTURE], max_new_tokens=NEW) for _ in range(3)]
    assert [a.cached_tokens for a in answers] == [0, *[answers[0].prompt_tokens - 1] * 2]
    assert all(a.token_ids == fresh(FIRST, [PICTURE]) for a in answers)


def test_turns_go_on_from_the_answer(tmp_path: Path):
    """By the model in the box, whose answers are text that is tokenized as it was made."""
    import vlrt.demo
    from vlrt_export.exporter import export

    box = Path(vlrt.demo.__file__).parent
    package = export(box / "checkpoint", tmp_path / "demo", precision="fp32")
    warm, other, images = Model(package, threads=1), cold(package), [box / "picture.png"]
    turns, before = [user(IMAGE, "Describe the picture.")], 0
    for question in ("How many things are there?", "Where is the black star?", "Thanks."):
        answer = warm.generate(turns, images=images, max_new_tokens=32)
        assert answer.token_ids == other.generate(turns, images=images, max_new_tokens=32).token_ids
        assert answer.cached_tokens >= before
        before = answer.prompt_tokens + len(answer.token_ids)
        turns = [*turns, {"role": "assistant", "content": answer.text}, user(question)]


def test_logits_are_those_of_a_cold_run(warm: Model, small_package: Path):
    warm.generate(FIRST, images=[PICTURE], max_new_tokens=NEW)
    layout, pictures = warm.prepare(SECOND, [PICTURE])
    begun = warm.prefixes.find(position_keys(layout, pictures))
    assert begun is not None
    embeds = warm.splice(layout, [], begun.length)
    got = warm.prefill(begun.decoder({}), layout, embeds)
    other = cold(small_package)
    projected = [other.projector(other.encode(one)) for one in pictures]
    expected = other.prefill(other.decoder(projected), layout, other.splice(layout, projected))
    np.testing.assert_allclose(got, expected, atol=CLOSE, rtol=0)


@pytest.mark.parametrize(
    ("before", "after", "encoded"),
    [
        ([PICTURE], [checker(90, 60)], 2),
        ([PICTURE], [PICTURE, checker(90, 60)], 2),
        ([PICTURE, checker(90, 60)], [checker(90, 60), PICTURE], 2),
        ([PICTURE, PICTURE], [PICTURE, PICTURE], 1),
        ([], [PICTURE], 1),
    ],
)
def test_other_pictures_are_other_prompts(
    warm: Model, fresh, monkeypatch: pytest.MonkeyPatch, before, after, encoded: int
):
    counts = counted(warm, monkeypatch)
    warm.generate(FIRST, images=before, max_new_tokens=NEW)
    answer = warm.generate(FIRST, images=after, max_new_tokens=NEW)
    assert answer.token_ids == fresh(FIRST, after)
    assert counts["vision_encoder"] == encoded


def test_one_other_pixel_is_another_picture(warm: Model, fresh):
    pixels = np.asarray(PICTURE).copy()
    pixels[30, 40] ^= 255
    warm.generate(FIRST, images=[PICTURE], max_new_tokens=NEW)
    answer = warm.generate(FIRST, images=[pixels], max_new_tokens=NEW)
    before_it = warm.prepare(FIRST, [PICTURE])[0].slots.argmax()
    assert answer.cached_tokens == before_it
    assert answer.token_ids == fresh(FIRST, [pixels])


def test_an_older_sequence_stays_whole(warm: Model):
    first = warm.generate(FIRST, images=[PICTURE], max_new_tokens=NEW)
    warm.generate(SECOND, images=[PICTURE], max_new_tokens=NEW)
    again = warm.generate(FIRST, images=[PICTURE], max_new_tokens=NEW)
    assert again.cached_tokens == first.prompt_tokens - 1
    assert again.token_ids == first.token_ids


def test_a_cancelled_answer_leaves_what_it_computed(warm: Model, fresh):
    stream = warm.stream(FIRST, images=[PICTURE], max_new_tokens=NEW)
    next(stream)
    stream.cancel()
    assert stream.result().finish_reason == "cancelled"
    answer = warm.generate(FIRST, images=[PICTURE], max_new_tokens=NEW)
    assert answer.cached_tokens > 0
    assert answer.token_ids == fresh(FIRST, [PICTURE])


def test_threads_share_what_is_kept(warm: Model, fresh):
    asked = [(FIRST, [PICTURE]), (SECOND, [PICTURE]), (FIRST, [gradient(70, 40)]), (SECOND, [])]

    def ask(index: int) -> list[int]:
        prompt, images = asked[index % len(asked)]
        return warm.generate(prompt, images=images, max_new_tokens=NEW).token_ids

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(24)))
    assert found == [fresh(*asked[i % len(asked)]) for i in range(24)]


def test_the_budget_of_keys_and_values_holds(small_package: Path):
    model = Model(small_package, threads=1, prefix_cache_mb=1)
    answers = [model.generate(f"{i} words", images=[PICTURE], max_new_tokens=2) for i in range(24)]
    assert 0 < model.prefixes.nbytes <= 1 << 20
    assert all(a.cached_tokens > 0 for a in answers[1:])
    model.prefixes.clear()
    assert model.prefixes.nbytes == 0
    assert cold(small_package).prefixes.limit == 0


def test_nothing_is_kept_where_nothing_is_to_be(small_package: Path):
    model = cold(small_package)
    answers = [model.generate(FIRST, images=[PICTURE], max_new_tokens=2) for _ in range(2)]
    assert [a.cached_tokens for a in answers] == [0, 0]
    assert model.prefixes.nbytes == model.features.nbytes == 0


@pytest.mark.parametrize("family", ["mllama", "kosmos2", "llava"])
def test_other_families_go_on_as_well(family: str, tmp_path: Path, request):
    from vlrt_export.exporter import export

    fixture = {"mllama": "small_mllama"}.get(family, f"tiny_{family}")
    package = export(request.getfixturevalue(fixture), tmp_path / "package", precision="fp32")
    model, other = Model(package, threads=1), cold(package)
    prompts = [FIRST, SECOND, FIRST + " " + SECOND]
    found = [model.generate(p, images=[PICTURE], max_new_tokens=NEW) for p in prompts]
    expected = [other.generate(p, images=[PICTURE], max_new_tokens=NEW) for p in prompts]
    assert [a.token_ids for a in found] == [a.token_ids for a in expected]
    assert all(a.cached_tokens > 0 for a in found[1:])
    for images in ([], [checker(90, 60)], [PICTURE]):  # after which nothing may be left of others
        asked: dict[str, Any] = {"images": images, "max_new_tokens": NEW}
        answers = [one.generate(FIRST, **asked).token_ids for one in (model, other)]
        assert answers[0] == answers[1]


# ------------------------------------------------------------------ features


def test_an_encoded_picture_goes_wherever_a_picture_goes(
    small_package: Path, fresh, monkeypatch: pytest.MonkeyPatch
):
    model = cold(small_package)
    handle = model.encode_image(PICTURE)
    assert not handle.picture.inputs
    counts = counted(model, monkeypatch)
    for question in (FIRST, SECOND):
        answer = model.generate(question, images=[handle], max_new_tokens=NEW)
        assert answer.token_ids == fresh(question, [PICTURE])
    part = [user({**IMAGE, "image": handle}, FIRST)]
    assert model.generate(part, max_new_tokens=NEW).token_ids == fresh(FIRST, [PICTURE])
    both = model.generate(FIRST, images=[handle, checker(100, 140)], max_new_tokens=NEW)
    assert both.token_ids == fresh(FIRST, [PICTURE, checker(100, 140)])
    assert counts["vision_encoder"] == 1
    with pytest.raises(InputError, match="expected a list of pictures, got one"):
        model.stream(FIRST, images=handle)  # pyright: ignore


def test_the_encoder_can_be_given_back(small_package: Path, fresh):
    model = cold(small_package, keep_encoder=False)
    for _ in range(2):
        answer = model.generate(FIRST, images=[PICTURE], max_new_tokens=NEW)
        assert answer.token_ids == fresh(FIRST, [PICTURE])
        assert sorted(model.backend._sessions) == ["decoder", "projector"]  # pyright: ignore


def test_a_picture_encoded_by_another_model_is_refused(
    small_package: Path, tmp_path: Path, small_qwen2_vl: Path
):
    from vlrt_export.exporter import export

    other = Model(export(small_qwen2_vl, tmp_path / "int8", precision="int8"), threads=1)
    handle = other.encode_image(PICTURE)
    with pytest.raises(InputError, match="a picture encoded by another model; encode it with this"):
        cold(small_package).generate(FIRST, images=[handle])


def test_features_are_kept_on_disk_for_others(
    small_package: Path, tmp_path: Path, fresh, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "features"
    cold(small_package, image_cache_folder=folder).generate(FIRST, images=[PICTURE])
    (kept,) = folder.iterdir()
    other = cold(small_package, image_cache_folder=folder)
    counts = counted(other, monkeypatch)
    answer = other.generate(FIRST, images=[PICTURE], max_new_tokens=NEW)
    assert (answer.token_ids, counts["vision_encoder"]) == (fresh(FIRST, [PICTURE]), 0)
    kept.write_bytes(kept.read_bytes()[:100])
    answer = other.generate(FIRST, images=[PICTURE], max_new_tokens=NEW)
    assert (answer.token_ids, counts["vision_encoder"]) == (fresh(FIRST, [PICTURE]), 1)
    assert [path.suffix for path in folder.iterdir()] == [".npz"]


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(
    small_package: Path, tmp_path: Path, fresh
):
    (tmp_path / "file").write_text("in the way")
    model = cold(small_package, image_cache_folder=tmp_path / "file")
    answer = model.generate(FIRST, images=[PICTURE], max_new_tokens=NEW)
    assert answer.token_ids == fresh(FIRST, [PICTURE])


def test_features_not_asked_for_the_longest_go_first():
    store, rows = FeatureStore(250, "it"), np.zeros(25, np.float32)
    store.put("a", {"x": rows})
    store.put("b", {"x": rows})
    assert store.get("a") is not None
    store.put("c", {"x": rows})
    assert [store.get(key) is not None for key in "abc"] == [True, False, True]
    assert store.nbytes == 200
    store.put("large", {"x": np.zeros(100, np.float32)})
    assert store.nbytes == 0
    store.put("a", {"x": rows})
    store.clear()
    assert store.get("a") is None


def test_pictures_of_one_content_have_one_digest(warm: Model, tmp_path: Path):
    PICTURE.save(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as opened:
        digests = {
            warm.prepare(FIRST, [one])[1][0].digest
            for one in (PICTURE, np.asarray(PICTURE), opened, tmp_path / "p.png")
        }
    assert len(digests) == 1
    assert warm.prepare(FIRST, [checker(90, 60)])[1][0].digest not in digests
