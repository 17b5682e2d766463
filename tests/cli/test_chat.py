"""`vlrt chat` over a pipe: questions and commands in, answers out, all else on stderr."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import vlrt
from support.commands import told
from support.pictures import picture
from vlrt.chat.session import COMMANDS, Session
from vlrt.chat.stage import StageLine
from vlrt_runtime.options import Progress

LENGTH = ("--max-new-tokens", 6)
CUT = "[cut at --max-new-tokens, or the context's end]"


@pytest.fixture
def talk(command, monkeypatch: pytest.MonkeyPatch, small_package: Path):
    """Says lines: exit status, lines of stdout, lines of stderr without remarks about length."""

    def say(
        *lines: str | bytes, options: tuple[object, ...] = ()
    ) -> tuple[int, list[str], list[str]]:
        data = b"".join(
            (line.encode() if isinstance(line, str) else line) + b"\n" for line in lines
        )
        stdin = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False)
        monkeypatch.setattr(sys, "stdin", stdin)
        status, out, err = command("chat", small_package, *LENGTH, *options)
        return status, out.splitlines(), [line for line in err.splitlines() if line != CUT]

    return say


@pytest.fixture
def answers(small_package: Path, photo: str):
    """What a conversation says to each question; a pair is one with pictures."""

    def ask(*questions: str | tuple[str, list[str]]) -> list[str]:
        chat = vlrt.load(small_package).chat(max_new_tokens=6)
        pairs = [(each, []) if isinstance(each, str) else each for each in questions]
        return [chat.ask(text, images=images).text for text, images in pairs]

    return ask


def test_each_line_is_a_question_and_they_follow_from_one_another(talk, answers):
    status, out, err = talk("What?", "", "  ", "请描述", "What?")
    assert (status, err) == (0, [])
    assert out == answers("What?", "请描述", "What?")
    assert out[0] != out[2]


def test_pictures_by_command_or_path(talk, answers, photo: str, tmp_path: Path):
    expected = answers(("What?", [photo]), "Where?")
    said = "[photo.png, 90 x 60: for your next question]"
    for lines in (
        (f"/image {photo}", "What?", "Where?"),
        (f"'{photo}' What?", "Where?"),
        (f"What? {photo}", "Where?"),
        (f"{Path(photo).as_uri()}  ", "What?", "Where?"),
    ):
        assert talk(*lines) == (0, expected, [said]), lines
    assert talk("What?", "Where?", options=("--image", photo)) == (0, expected, [said])


def test_several_pictures(talk, answers, photo: str, tmp_path: Path):
    other = tmp_path / "it's another.jpg"
    picture(60, 60).save(other)
    escaped = str(other).replace(" ", r"\ ").replace("'", r"\'")
    status, out, err = talk(f"{photo} {escaped}", "What?", f"/image {other}", "And this?")
    assert (status, len(err)) == (0, 3)
    assert out == answers(("What?", [photo, str(other)]), ("And this?", [str(other)]))


def test_undo_gives_pictures_back_first(talk, answers, photo: str):
    expected = answers(("What?", [photo]), "Where?")
    lines = (f"{photo} What?", "/undo", "What?", f"/image {photo}", "/undo", "Where?")
    status, out, err = talk(*lines)
    assert (status, out) == (0, [expected[0], *expected])
    assert err[1:3] == ["[taken back: What?]", "[1 picture of it: for your next question]"]
    assert err[-1] == "[taken back: photo.png]"


def test_reset(talk, answers, photo: str):
    status, out, _ = talk("What?", f"/image {photo}", "/reset", "Where?")
    assert (status, out) == (0, [*answers("What?"), *answers("Where?")])


def test_save_and_load(talk, answers, photo: str):
    expected = answers(("What?", [photo]), "Where?")
    status, out, err = talk(f"{photo} What?", '/save "my talk.json"')
    assert (status, out, err[1:]) == (0, expected[:1], ["[my talk.json: 1 turn]"])
    again = [*("[my talk.json: 1 turn]", "[the last one: What?]"), expected[0]]
    for lines, options in (
        (("/load my talk.json", "Where?"), ()),
        (("Where?",), ("--load", "my talk.json")),
    ):
        assert talk(*lines, options=options) == (0, expected[1:], again)
    assert talk("/load my talk.json", "Where?", "/save my talk.json")[0] == 0
    assert len(json.loads(Path("my talk.json").read_text("utf-8"))["turns"]) == 2


def test_save_keeps_files_that_are_no_conversation(talk, photo: str):
    before = Path(photo).read_bytes()
    for name in (photo, Path(photo).parent):
        status, _, err = talk(f"/save {name}")
        assert (status, err) == (
            2,
            [f"vlrt: /save {name}: it is there and is no conversation; choose another name"],
        )
    assert Path(photo).read_bytes() == before


def test_stats(talk, photo: str):
    status, out, err = talk(f"{photo} What?", "/stats")
    assert (status, len(out)) == (0, 1)
    assert [line.partition(":")[0] for line in err[1:3]] == ["load", "preprocess"]
    assert "6 tokens, length" in "\n".join(err)
    assert err[-1].startswith("context:     ")
    assert err[-1].endswith(" tokens, 0 of the prompt kept from before")
    _, _, after_all = talk("What?", "Where?", options=("--stats",))
    assert sum(line.startswith("total:") for line in after_all) == 2
    assert "/stats: nothing has been answered yet" in talk("/stats")[2][0]


def test_system_text_is_told(talk, small_package: Path):
    chat = vlrt.load(small_package).chat("Be brief.", max_new_tokens=6)
    assert talk("What?", options=("--system", "Be brief."))[1] == [chat.ask("What?").text]
    assert "--system: a saved" in talk(options=("--system", "x", "--load", "y"))[2][0]


def test_answers_are_drawn_and_stopped_as_asked(talk, small_package: Path):
    drawn = vlrt.Sampling(temperature=0.9, seed=3)
    chat = vlrt.load(small_package).chat(max_new_tokens=6, sampling=drawn)
    options = ("--temperature", "0.9", "--seed", "3")
    assert talk("What?", options=options)[1] == [chat.ask("What?").text]
    assert "--seed: nothing is drawn" in talk("What?", options=options[2:])[2][0]


def test_quit_ends_and_help_tells(talk):
    status, out, err = talk("/help", "/quit", "What?")
    assert (status, out) == (0, [])
    for name in ("/image PATH", "/stats", "/undo", "/reset", "/save FILE", "/load FILE", "/quit"):
        assert any(line.startswith(name + " ") for line in err)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/dance", "/dance: no such command, and no picture; /help lists them"),
        ("/imag x", "/imag: no such command, and no picture; did you mean /image?"),
        ("/image", "/image: which picture?"),
        ("/image missing.png", "picture cannot be opened: 'missing.png'"),
        ("/image .", "a folder, not a picture: '.'"),
        ("/image 'a b", "'a b: a quote has no end"),
        ("/no/such.png What?", "picture cannot be opened: '/no/such.png'"),
        ("/" + "x" * 5000 + ".png", "picture cannot be opened: '/xxx"),
        ("/load missing.json", "missing.json"),
        ("/load", "/load: expected one file"),
        ("/save a b", "/save: expected one file"),
        ("/save no/such/folder.json", "cannot be written"),
        ("/undo", "/undo: nothing has been asked yet"),
        (b"\xff", "standard input: not UTF-8 text"),
        ("Why? " * 20000, "the model's context is"),
    ],
)
def test_mistakes_are_a_line_and_the_conversation_goes_on(talk, answers, line, said: str):
    status, out, err = talk(line, "What?")
    assert (status, len(err)) == (2, 1), err
    assert err[0].startswith("vlrt: ")
    assert said in err[0]
    assert out == answers("What?")


def test_a_line_that_failed_leaves_no_picture(talk, answers, photo: str):
    status, out, err = talk(f"{photo} " + "Why? " * 20000, "What?")
    assert (status, len(err)) == (2, 2)
    assert out == answers("What?")


def test_faults_are_told_and_the_conversation_goes_on(talk, answers, monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setitem(COMMANDS, "/stats", SimpleNamespace(run=fail))
    status, out, err = talk("/stats", "What?")
    assert (status, err) == (1, ["vlrt: fault: ZeroDivisionError: by zero; --debug shows where"])
    assert out == answers("What?")


def test_stopped_before_a_word_it_was_not_asked(
    small_package: Path, photo: str, monkeypatch, capsys
):
    def interrupt(_: StageLine, progress: Progress) -> None:
        if progress.stage == "prefill":
            signal.raise_signal(signal.SIGINT)  # heard by the main thread, which waits for words
            end = time.monotonic() + 10
            while signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                assert time.monotonic() < end
                time.sleep(0.01)

    session = Session(vlrt.load(small_package), terminal=True)
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(StageLine, "show", interrupt)
        session.take(f"{photo} What?")
    assert signal.getsignal(signal.SIGINT) is handler
    assert session.chat.turns == ()
    assert capsys.readouterr().err.endswith("[stopped]\n")
    session.take("What?")
    assert [turn.images for turn in session.chat.turns] == [()]


def test_an_answer_does_not_steer_the_terminal(small_package: Path, monkeypatch, capsys):
    model = vlrt.load(small_package)
    monkeypatch.setattr(model.codec, "decode", lambda ids, **_: "a\x1b[2Jb\x07\x9bc\n" * bool(ids))
    for terminal, expected in ((True, "a[2Jbc\n"), (False, "a\x1b[2Jb\x07\x9bc\n")):
        Session(model, terminal=terminal, defaults={"max_new_tokens": 1}).take("What?")
        assert capsys.readouterr().out == expected


def test_a_model_without_a_chat_template_says_so(command, small_package: Path, monkeypatch):
    shutil.copytree(small_package, "package")
    manifest = json.loads(Path("package/manifest.json").read_text("utf-8"))
    del manifest["files"]["chat_template.jinja"]
    Path("package/manifest.json").write_text(json.dumps(manifest), "utf-8")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: False))
    assert "has no chat template" in told(command("chat", "package"), 2)
