"""Conversations: history, taking back, saving and loading, and what earlier turns cost."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

import vlrt
from support.pictures import gradient, picture
from vlrt_runtime import conversation
from vlrt_runtime.errors import ImageError, InputError, StorageError
from vlrt_runtime.image import load_image
from vlrt_runtime.model import Model
from vlrt_runtime.options import Progress

PICTURE = picture(90, 60)


def png(image=PICTURE) -> bytes:
    data = BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def model(small_package: Path) -> Model:
    return Model(small_package, threads=1)


def history(text: str, answer: str, *images: object) -> list[dict]:
    parts = [{"type": "image", "image": image} for image in images]
    return [
        {"role": "user", "content": [*parts, {"type": "text", "text": text}]},
        {"role": "assistant", "content": answer},
    ]


def test_a_turn_is_answered_as_its_messages_are(model: Model):
    chat = model.chat("Be brief.", max_new_tokens=6)
    first = chat.ask("One?", images=[png()])
    second = chat.ask("Two?", max_new_tokens=4)
    system = [{"role": "system", "content": "Be brief."}]
    asked = [*system, *history("One?", first.text, png())]
    assert chat.messages == asked + history("Two?", second.text)
    question = {"role": "user", "content": [{"type": "text", "text": "Two?"}]}
    alone = Model(model.package.folder, threads=1, image_cache_mb=0, prefix_cache_mb=0)
    assert alone.generate(system + asked[1:2], max_new_tokens=6).token_ids == first.token_ids
    assert alone.generate([*asked, question], max_new_tokens=4).token_ids == second.token_ids
    assert [(each.text, each.answer) for each in chat.turns] == [
        ("One?", first.text),
        ("Two?", second.text),
    ]


def test_earlier_turns_cost_nothing_again(model: Model, monkeypatch: pytest.MonkeyPatch):
    chat = vlrt.load("demo", threads=1).chat(max_new_tokens=24)
    first = chat.ask("Describe the picture.", images=[png(picture(224, 224))])
    decoded: list[object] = []
    monkeypatch.setattr("vlrt_runtime.prompts.load_image", decoded.append)
    told: list[Progress] = []
    second = chat.ask("How many things are there?", on_progress=told.append)
    assert second.image_tokens == first.image_tokens > 0
    # All but the last of the answer's ids, whose position was never run.
    assert second.cached_tokens >= first.prompt_tokens + len(first.token_ids) - 1
    assert decoded == []
    assert "encode" not in {each.stage for each in told}


def test_undo_takes_turns_back_one_by_one(model: Model):
    chat = model.chat(max_new_tokens=4)
    texts = ["One?", "Two?"]
    answers = [chat.ask(text).token_ids for text in texts]
    assert chat.undo() == "Two?"
    assert chat.ask("Two?").token_ids == answers[1]
    assert [chat.undo(), chat.undo(), chat.undo()] == ["Two?", "One?", None]
    assert chat.messages == []
    chat.ask("Three?")
    chat.reset()
    assert chat.turns == ()
    assert chat.ask("One?").token_ids == answers[0]


def test_a_cancelled_answer_stays_as_far_as_it_went(model: Model):
    chat = model.chat(max_new_tokens=24)
    with chat.stream("One?") as stream:
        next(stream)
        assert chat.turns == ()
    (kept,) = chat.turns
    assert stream.answer is not None
    assert kept.answer == stream.answer.text
    assert stream.answer.finish_reason == "cancelled"


def test_an_answer_that_was_left_is_ended_by_the_next_question(model: Model):
    chat = model.chat(max_new_tokens=24)
    for _piece in chat.stream("One?"):
        break
    chat.stream("Never begun.")
    second = chat.ask("Two?")
    assert [each.text for each in chat.turns] == ["One?", "Two?"]
    assert 0 < len(chat.turns[0].answer) < len(second.text) + 24


def test_a_failed_answer_leaves_the_history_as_it_was(model: Model, tmp_path: Path):
    chat = model.chat(max_new_tokens=4)
    chat.ask("One?")
    before = chat.messages
    (tmp_path / "no.png").write_text("no picture")
    for images in (["nowhere.png"], [tmp_path / "no.png"], [b"no picture"]):
        with pytest.raises(ImageError):
            chat.ask("Two?", images=images)
    with pytest.raises(InputError):
        chat.ask("a <|image_pad|>")
    with pytest.raises(ZeroDivisionError):
        chat.ask("Two?", on_progress=lambda progress: 1 / 0)
    assert chat.messages == before
    chat.ask("Two?")


def test_files_are_read_when_they_are_given(model: Model, tmp_path: Path):
    chat = model.chat(max_new_tokens=4)
    path = tmp_path / "a.png"
    path.write_bytes(png())
    array = np.asarray(gradient(70, 40)).copy()
    first = chat.ask("One?", images=[path, array])
    path.unlink()
    array[:] = 0
    second = chat.ask("Two?")
    assert second.image_tokens == first.image_tokens
    assert second.cached_tokens > first.prompt_tokens
    bytes_kept, image_kept = chat.turns[0].images
    assert bytes_kept == png()
    np.testing.assert_array_equal(np.asarray(image_kept), np.asarray(gradient(70, 40)))


# ------------------------------------------------------------------ saved


def test_a_saved_conversation_goes_on(model: Model, tmp_path: Path):
    chat = model.chat("Be brief.", max_new_tokens=6)
    chat.ask("One? \N{PARTY POPPER}", images=[png(), gradient(70, 40)])
    chat.ask("Two?")
    path = tmp_path / "chat.json"
    path.write_text("an older one")
    chat.save(path)
    assert [each.name for each in tmp_path.iterdir()] == ["chat.json"]
    content = json.loads(path.read_bytes())
    assert content["schema_version"] == 1
    assert base64.b64decode(content["turns"][0]["images"][0]) == png()
    again = model.load_chat(path, max_new_tokens=6)
    assert again.system == "Be brief."
    assert [each.answer for each in again.turns] == [each.answer for each in chat.turns]
    kept = again.turns[0].images[1]
    assert isinstance(kept, bytes)
    assert load_image(kept).tobytes() == gradient(70, 40).tobytes()
    third, expected = again.ask("Three?"), chat.ask("Three?")
    assert third.token_ids == expected.token_ids
    assert third.image_tokens == expected.image_tokens > 0


def test_what_cannot_be_saved_is_told(model: Model, tmp_path: Path):
    chat = model.chat(max_new_tokens=2)
    chat.ask("One?", images=[model.encode_image(PICTURE)])
    with pytest.raises(InputError, match="turn 1: of a picture given as encode_image's result"):
        chat.save(tmp_path / "chat.json")
    chat.reset()
    chat.ask("One?", videos=[[PICTURE, PICTURE]])
    with pytest.raises(InputError, match="turn 1: a video cannot be saved"):
        chat.save(tmp_path / "chat.json")
    chat.reset()
    with pytest.raises(StorageError, match=r"no_folder.*cannot be written"):
        chat.save(tmp_path / "no_folder" / "chat.json")
    assert list(tmp_path.iterdir()) == []


def turn(**changes: object) -> dict[str, object]:
    return {"schema_version": 1, "turns": [{"text": "a", "answer": "b", "images": [], **changes}]}


GOOD = turn()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a conversation saved by vlrt"),
        (b"\xff\xfe", "not a conversation saved by vlrt"),
        (b"[" * 100_000, "not a conversation saved by vlrt"),
        (b"[]", "not a conversation saved by vlrt: Expected `object`"),
        ({**GOOD, "schema_version": 2}, "schema_version 2, expected 1; update vlrt"),
        ({**GOOD, "more": 1}, "unknown field `more`"),
        (turn(text=3), r"`\$.turns\[0\].text`"),
        ({**GOOD, "turns": [{"text": "", "answer": "", "images": ["*"]}]}, "Invalid base64"),
        (
            {**GOOD, "turns": [{"text": "", "answer": "", "images": [{"path": "/"}]}]},
            "got `object`",
        ),
        (None, "conversation cannot be opened"),
    ],
)
def test_a_file_that_is_none_is_refused(model: Model, tmp_path: Path, content, said: str):
    path = tmp_path / "chat.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError, match=said):
        model.load_chat(path)


def test_sizes_are_limited(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(GOOD))
    assert len(model.load_chat(path).turns) == 1
    monkeypatch.setattr(conversation, "MAX_FILE", 20)
    with pytest.raises(InputError, match="larger than 20 bytes"):
        model.load_chat(path)
    (tmp_path / "a.png").write_bytes(png())
    monkeypatch.setattr(conversation, "MAX_PICTURE", 20)
    with pytest.raises(ImageError, match=r"picture of more than 20 bytes: .*a\.png"):
        model.chat().stream("One?", images=[tmp_path / "a.png"])


# ------------------------------------------------------------------ what cannot be


def test_options_are_looked_at_at_once(model: Model):
    with pytest.raises(InputError, match="max_new_tokens 0"):
        model.chat(max_new_tokens=0)
    with pytest.raises(InputError, match="raw: a conversation is made of messages"):
        model.chat(raw=True)
    with pytest.raises(InputError, match="images: give them with a question"):
        model.chat(images=[PICTURE])


def test_a_model_without_a_template_holds_no_conversation(model: Model, monkeypatch):
    monkeypatch.setattr(model, "_render", None)
    with pytest.raises(InputError, match="it has no chat template, so it cannot hold"):
        model.chat()
