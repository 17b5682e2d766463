"""A package appears whole or not at all: crashes, kills, other people's folders."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vlrt_export import atomic
from vlrt_export.atomic import atomic_folder
from vlrt_export.exporter import export
from vlrt_runtime.errors import PackageExistsError, StorageError
from vlrt_runtime.manifest import MANIFEST
from vlrt_runtime.package import Package

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def package(folder: Path, content: str = "old") -> Path:
    folder.mkdir()
    (folder / MANIFEST).write_text(content)
    return folder


def write(target: Path, content: str = "new", *, force: bool = False) -> None:
    with atomic_folder(target, force=force) as folder:
        (folder / MANIFEST).write_text(content)


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has said `ready`; killed at the end if it is still there."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n", child.stderr and child.stderr.read()
            yield child
        finally:
            child.kill()


# --- Ends ---------------------------------------------------------------------------------------


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "deep" / "out"
    with atomic_folder(target) as folder:
        (folder / MANIFEST).write_text("x")
        assert folder.parent == target.parent
        assert folder.name.startswith(".out.")
        assert not target.exists()
    assert names(target.parent) == ["out"]
    assert names(target) == [MANIFEST]


@posix
def test_a_package_has_the_permissions_of_any_new_folder(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def fail(folder: Path, error: type[BaseException]) -> None:
    (folder / "half").write_text("x")
    raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, PermissionError])
@pytest.mark.parametrize("replaces", [False, True])
def test_a_block_that_fails_leaves_what_was_there(tmp_path, error, replaces):
    target = tmp_path / "out"
    if replaces:
        package(target)
    with pytest.raises(error), atomic_folder(target, force=replaces) as folder:
        fail(folder, error)
    assert names(tmp_path) == ["out"] * replaces
    assert not replaces or (target / MANIFEST).read_text() == "old"


def test_ctrl_c_while_weights_are_made(small_qwen2_vl, tmp_path):
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(small_qwen2_vl, tmp_path / "out", progress=interrupt)
    assert names(tmp_path) == []


# --- What is there already ----------------------------------------------------------------------


def test_only_force_replaces_a_package(tmp_path):
    target = package(tmp_path / "out")
    with pytest.raises(PackageExistsError, match=r"out: a package is already there; use --force"):
        write(target)
    write(target, force=True)
    assert (target / MANIFEST).read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == [MANIFEST]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["folder", "file", "link", "broken link"])
def test_what_is_no_package_is_never_replaced(tmp_path, kind, force):
    target, mine = tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    if kind == "folder":
        target = mine
    elif kind == "file":
        target = mine / "thesis.txt"
    else:
        package(tmp_path / "package")
        target.symlink_to(tmp_path / ("package" if kind == "link" else "absent"))
    before = names(tmp_path)
    with pytest.raises(PackageExistsError, match="no vlrt package, so it is not replaced; choose"):
        write(target, force=force)
    assert names(tmp_path) == before
    assert (mine / "thesis.txt").read_text() == "x"


@pytest.mark.parametrize("force", [False, True])
def test_what_appears_meanwhile_is_not_replaced(tmp_path, force):
    target = tmp_path / "out"
    with pytest.raises(PackageExistsError), atomic_folder(target, force=force):
        shutil.copytree(Path(__file__).parent, target)
    assert (target / Path(__file__).name).is_file()
    assert names(tmp_path) == ["out"]


def test_the_current_folder_and_the_root(small_qwen2_vl, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(PackageExistsError, match="no vlrt package"):
        export(small_qwen2_vl, "/")
    assert export(small_qwen2_vl, ".") == tmp_path / "here"
    assert Package.open(tmp_path / "here").manifest.name == "here"


@pytest.mark.parametrize("target", ["file/out", "file/deep/out", "x" * 300])
def test_a_place_that_cannot_be_written(tmp_path, target):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be written: "):
        write(tmp_path / target)
    assert names(tmp_path) == ["file"]


# --- Kills --------------------------------------------------------------------------------------

EXPORT = """
import sys, time
from vlrt_export.exporter import export
def stop(*_):
    print("ready", flush=True)
    time.sleep(60)
export(sys.argv[1], sys.argv[2], progress=stop)
"""
HOLD = """
import sys
from pathlib import Path
from vlrt_export.atomic import atomic_folder
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "manifest.json").write_text("theirs")
    print("ready", flush=True)
    sys.stdin.read()
"""
RENAMES = """
import sys, time
from pathlib import Path
from vlrt_export.atomic import atomic_folder
rename = Path.rename
def once(self, other):
    rename(self, other)
    print("ready", flush=True)
    time.sleep(60)
with atomic_folder(Path(sys.argv[1]), force=True) as folder:
    (folder / "manifest.json").write_text("new")
    Path.rename = once
"""


@posix
@pytest.mark.parametrize("name", ["out", "out [v1]*"])
def test_the_next_run_clears_what_a_killed_one_left(small_qwen2_vl, tmp_path, name):
    target = tmp_path / name
    with process(EXPORT, small_qwen2_vl, target) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert names(tmp_path)
    assert not target.exists()
    beside = tmp_path / f".{name}2.partial-x"
    beside.mkdir()
    export(small_qwen2_vl, target)
    assert names(tmp_path) == sorted([name, beside.name])
    assert not Package.open(target).damaged_files()


@posix
def test_a_living_process_is_left_alone(tmp_path):
    target = tmp_path / "out"
    with process(HOLD, target) as child:
        theirs = names(tmp_path)
        write(target)
        assert names(tmp_path) == sorted([*theirs, "out"])
        _, error = child.communicate("", timeout=10)
    assert "PackageExistsError" in error
    assert names(tmp_path) == ["out"]
    assert (target / MANIFEST).read_text() == "new"


@posix
def test_a_kill_between_the_two_renames_is_undone(tmp_path):
    target = package(tmp_path / "out")
    with process(RENAMES, target) as child:
        assert not target.exists()
        # While it lives, nothing is undone: it may be about to rename the second time.
        atomic.check_target(target, force=False)
        assert not target.exists()
        child.send_signal(signal.SIGKILL)
        child.wait()
    with pytest.raises(PackageExistsError, match="already there"):
        atomic.check_target(target, force=False)
    assert (target / MANIFEST).read_text() == "old"
    write(target, "newer", force=True)
    assert names(tmp_path) == ["out"]
    assert (target / MANIFEST).read_text() == "newer"
