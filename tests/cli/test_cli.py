"""The command line in this process: what goes to stdout, what to stderr, and the exit status."""

from __future__ import annotations

import io
import json
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

import vlrt
from support.commands import told
from support.pictures import picture
from vlrt_runtime.errors import PackageError

COMMANDS = ("export", "run", "chat", "inspect", "verify", "models")
ANSWER = {"text", "token_ids", "finish_reason", "prompt_tokens", "image_tokens", "timings_ms"}
TIMINGS = {
    *("load", "queued", "preprocess", "encode", "project", "prefill", "ttft", "tpot", "total"),
}


# ------------------------------------------------------------------ help and usage


@pytest.mark.parametrize("argv", [(), *[(name,) for name in COMMANDS]])
def test_help(command, argv):
    status, out, err = command(*argv, "--help")
    assert (status, err) == (0, "")
    assert out.startswith("usage: vlrt")
    for name in () if argv else COMMANDS:
        assert name in out


def test_version(command):
    assert command("--version") == (0, f"vlrt {vlrt.__version__}\n", "")


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("dance",),
        ("run",),
        ("run", "package"),
        ("run", "package", "x", "--max-new-tokens", "many"),
        ("run", "package", "x", "--device", "tpu"),
        ("verify", "package"),
        ("export", "x", "--precision", "int3"),
        ("inspect", "package", "--jsn"),
    ],
)
def test_wrong_usage(command, argv):
    status, out, err = command(*argv)
    assert (status, out) == (2, "")
    assert "usage: vlrt" in err
    assert "error: " in err


# ------------------------------------------------------------------ run


def test_an_answer_goes_to_stdout(command, small_package: Path, photo: str):
    argv = ("run", small_package, "What?", "--image", photo, "--max-new-tokens", 8)
    status, out, err = command(*argv)
    assert (status, err) == (0, "")
    expected = vlrt.load(small_package).generate("What?", images=[photo], max_new_tokens=8)
    assert out == expected.text + "\n"


def test_json_is_one_object_with_the_documented_keys(command, small_package: Path, photo: str):
    argv = ("run", small_package, "W?", "--image", photo, "--image", photo, "--max-new-tokens", 5)
    status, out, err = command(*argv, "--json")
    assert (status, err) == (0, "")
    assert out.count("\n") == 1
    answer = json.loads(out)
    assert set(answer) == ANSWER
    assert set(answer["timings_ms"]) == TIMINGS
    assert all(isinstance(value, float) for value in answer["timings_ms"].values())
    assert len(answer["token_ids"]) == 5
    assert answer["image_tokens"] == 12
    assert answer["finish_reason"] == "length"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_stats_go_to_stderr(command, small_package: Path, options):
    argv = ("run", small_package, "What?", "--max-new-tokens", 3, *options)
    plain, (status, out, err) = command(*argv), command(*argv, "--stats")
    assert status == 0
    assert len(out.splitlines()) == len(plain[1].splitlines())
    names = [line.partition(":")[0] for line in err.splitlines()]
    assert names[:6] == ["load", "preprocess", "encode", "project", "prefill", "first token"]
    assert "total" in names
    assert "3 tokens, length" in err


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_prompt_from_standard_input(command, small_package: Path, monkeypatch, end: str):
    def stdin(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))

    stdin(("请描述 this" + end).encode())
    argv = ("run", small_package, "-", "--max-new-tokens", 4)
    assert command(*argv) == command("run", small_package, "请描述 this", *argv[3:])
    stdin(b"\xff")
    assert "standard input: not UTF-8 text" in told(command(*argv), 2)


def test_raw_prompts(command, small_package: Path):
    argv = (small_package, "Describe", "--max-new-tokens", 2, "--json")
    raw = json.loads(command("run", *argv, "--raw")[1])
    assert raw["prompt_tokens"] < json.loads(command("run", *argv)[1])["prompt_tokens"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--image", "missing.png"), "missing.png"),
        (("--image", "."), "a folder, not a picture: '.'"),
        (("--max-new-tokens", "0"), "max_new_tokens 0: expected at least 1"),
        (("--threads", "0"), "threads 0: expected at least 1"),
        (("--max-pixels", "1"), "pixel limits 3136 to 1"),
        (("--raw", "--image", "PHOTO"), "0 picture placeholders, 1 pictures given"),
    ],
)
def test_mistakes_are_told_in_a_line(command, small_package: Path, photo: str, options, said):
    options = [photo if word == "PHOTO" else word for word in options]
    assert said in told(command("run", small_package, "What?", *options), 2)
    assert said in told(command("run", small_package, "What?", *options, "--json"), 2)


def test_the_wrong_picture_of_several_is_named(command, small_package: Path, photo: str):
    Path("words.png").write_text("words")
    argv = ("run", small_package, "x", "--image", photo, "--image", "words.png")
    line = told(command(*argv), 2)
    assert "words.png" in line
    assert "photo.png" not in line


@pytest.mark.parametrize("name", ["run", "inspect"])
def test_no_such_package(command, small_package: Path, home: Path, name: str):
    shutil.copytree(small_package, home / "packages" / "qwen2-vl-2b")
    rest = ("x",) if name == "run" else ()
    assert "did you mean qwen2-vl-2b?" in told(command(name, "qwen2-vl-2", *rest), 2)
    assert "make one with `vlrt export zebra`" in told(command(name, "zebra", *rest), 2)
    assert command(name, "Qwen2-VL-2B", *rest)[0] == 0


# ------------------------------------------------------------------ faults


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (PackageError("broken:\n  twice"), 2, "vlrt: broken: twice\n"),
        (ZeroDivisionError("by zero"), 1, "vlrt: fault: ZeroDivisionError: by zero; --debug shows"),
    ],
)
def test_debug_shows_where(command, monkeypatch, first: bool, error, status: int, said: str):
    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(vlrt, "load", load)
    assert said in told(command("run", "package", "x"), status)
    argv = ("--debug", "run", "package", "x") if first else ("run", "package", "x", "--debug")
    shown = command(*argv)
    assert shown[:2] == (status, "")
    assert shown[2].startswith("Traceback (most recent call last):")
    assert said in shown[2]


def test_interrupting_is_130(command, monkeypatch):
    def load(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vlrt, "load", load)
    assert command("run", "package", "x") == (130, "", "vlrt: interrupted\n")


def test_warnings_are_notes(command, small_package: Path):
    frames = [picture(60, 60), picture(60, 60).rotate(90)]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    before = warnings.showwarning
    argv = ("run", small_package, "x", "--image", "moving.gif", "--max-new-tokens", 1)
    status, _, err = command(*argv)
    assert status == 0
    assert err == "vlrt: note: 'moving.gif' has several frames; the first is used\n"
    assert warnings.showwarning is before
