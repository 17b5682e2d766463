"""Paths in a line, as terminals write files that are dropped into them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlrt.chat.paths import find_pictures, read_paths
from vlrt_runtime.errors import InputError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="by a shell's rules")
NAMES = ("plain.png", "with space.JPG", "it's.webp", 'a "b".gif', "größe%20.png", "back\\slash.png")


@pytest.fixture(params=NAMES)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / request.param).touch()
    return tmp_path / request.param


def written(path: Path) -> list[str]:
    """As GNOME's terminal, macOS's and a file manager write it."""
    escaped = "".join("\\" + letter if letter in " '\"\\" else letter for letter in str(path))
    return ["'" + str(path).replace("'", "'\\''") + "'", escaped, path.as_uri()]


def test_dropped_files_are_found(file: Path):
    for text in written(file):
        assert find_pictures(f"{text} ") == ([file], "")
        assert find_pictures(f"What's {text} and why?") == ([file], "What's  and why?")
        assert find_pictures(f"{text} {text} So?") == ([file, file], "So?")


def test_any_path_in_a_line_of_its_own(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(file.parent)
    assert find_pictures(f" {file.name} ") == ([Path(file.name)], "")
    assert find_pictures(str(file)) == ([file], "")


def test_paths_behind_a_command(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(file.parent)
    for text in (*written(file), str(file), file.name):
        assert [path.absolute() for path in read_paths(f" {text} ")] == [file]
    assert read_paths("a.png 'b c.png'") == [Path("a.png"), Path("b c.png")]
    assert read_paths("") == []


@pytest.mark.parametrize(
    "line",
    [
        "What is a/b.png?",
        "relative.png",
        "What's in /etc and 'why'?",
        "/etc/hosts",
        'It is "so" and it\'s not.',
        "and/or",
        "http://a.b/c.png",
        "  two  spaces  ",
    ],
)
def test_all_else_is_text(line: str):
    assert find_pictures(line) == ([], line)


def test_a_picture_that_is_not_there_is_told(tmp_path: Path):
    for text in written(tmp_path / "not here.png"):
        with pytest.raises(InputError, match=r"not here\.png': no such file"):
            find_pictures(f"{text} What?")


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").touch()
    assert find_pictures("~/a.png What?") == ([tmp_path / "a.png"], "What?")
    assert read_paths("~/a.png") == [tmp_path / "a.png"]
