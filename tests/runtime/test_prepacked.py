"""Prepacked weights: the same answers, made once, and never in the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.pictures import picture
from vlrt.bench import worker
from vlrt.bench.record import Case
from vlrt.cli import cache, main
from vlrt.verify import verify
from vlrt_export.exporter import export
from vlrt_runtime import prepacked
from vlrt_runtime.errors import InputError
from vlrt_runtime.model import Model
from vlrt_runtime.session import open_session, ort

pytestmark = pytest.mark.skipif(
    not prepacked.supported(), reason=f"onnxruntime {ort.__version__} saves none"
)
PICTURE = picture(90, 60)
GRAPHS = ("decoder", "projector", "vision_encoder")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, where graphs of any size are kept."""
    monkeypatch.setenv("VLRT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(prepacked, "SMALLEST", 0)
    return tmp_path / "home" / "prepacked"


@pytest.fixture(scope="module")
def package(small_qwen2_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small_qwen2_vl, tmp_path_factory.mktemp("int4") / "package", precision="int4")


def ids(package: Path, **options: bool) -> list[int]:
    model = Model(package, threads=1, **options)
    return model.generate("What is this?", images=[PICTURE], max_new_tokens=8).token_ids


def sources() -> list[str]:
    return sorted(Path(entry.source).stem for entry in prepacked.entries())


def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The graphs that onnxruntime is given."""
    from vlrt_runtime.backends import onnx

    seen, original = [], onnx.open_session
    monkeypatch.setattr(
        onnx, "open_session", lambda path, **rest: seen.append(path) or original(path, **rest)
    )
    return seen


def test_the_second_opening_uses_what_the_first_made(package: Path, home: Path, monkeypatch):
    expected = ids(package, cache=False)
    assert not home.exists()
    assert ids(package) == expected
    assert sources() == list(GRAPHS)
    seen = opened(monkeypatch)
    assert ids(package) == expected
    assert len(seen) == len(GRAPHS)
    assert all(path.is_relative_to(home) for path in seen)


@pytest.mark.parametrize("family", ["mllama", "qwen2_vl"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_every_kind_of_graph_survives_it(family: str, precision: str, tmp_path: Path, request):
    checkpoint = request.getfixturevalue(f"small_{family}")
    package = export(checkpoint, tmp_path / "package", precision=precision)
    assert ids(package) == ids(package) == ids(package, cache=False)


def test_another_file_takes_the_place_of_the_one_before(package: Path, tmp_path: Path):
    other = shutil.copytree(package, tmp_path / "other")
    ids(package)
    expected = ids(other)
    before = {entry.folder for entry in prepacked.entries()}
    data = other / "decoder.onnx.data"
    os.utime(data, ns=(1, data.stat().st_mtime_ns + 1))
    assert ids(other) == expected
    after = {entry.folder for entry in prepacked.entries()}
    assert (len(before), len(after), len(after - before)) == (6, 6, 1)


@pytest.mark.parametrize("damage", ["cut", "gone", "words", "note"])
def test_a_damaged_entry_is_made_again(package: Path, damage: str):
    expected = ids(package)
    entry = next(e for e in prepacked.entries() if e.source.endswith("decoder.onnx"))
    data, graph = (entry.folder / name for name in (prepacked.DATA, prepacked.GRAPH))
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "gone":
        data.unlink()
    elif damage == "words":
        graph.write_bytes(b"w" * graph.stat().st_size)
    else:
        (entry.folder / prepacked.NOTE).write_text("{")
    assert ids(package) == expected
    assert sources() == list(GRAPHS)
    assert ids(package) == expected


def test_a_home_that_cannot_be_written_costs_nothing(package: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VLRT_HOME", str(tmp_path / "file"))
    assert ids(package) == ids(package, cache=False)


def test_a_full_disk_costs_nothing(package: Path, home: Path, monkeypatch):
    monkeypatch.setattr(prepacked.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    assert ids(package) == ids(package, cache=False)
    assert prepacked.entries() == []
    assert list(home.iterdir()) == []


def test_what_was_not_used_for_the_longest_goes_first(package: Path, home: Path, monkeypatch):
    ids(package)
    old, *others = reversed(prepacked.entries())
    os.utime(old.folder / prepacked.NOTE, (1, 1))
    left = [home / f"{prepacked.PARTIAL}crash", home / "half-removed"]
    for folder in left:
        folder.mkdir()
        os.utime(folder, (1, 1))
    (home / f"{prepacked.PARTIAL}now").mkdir()
    total = sum(entry.nbytes for entry in [old, *others])
    prepacked._make_room(others[0].folder, total - 1)
    assert {e.folder for e in prepacked.entries()} == {e.folder for e in others}
    assert [folder for folder in left if folder.exists()] == []
    assert (home / f"{prepacked.PARTIAL}now").is_dir()


@pytest.mark.parametrize("said", ["abc", "nan", "inf", "-1"])
def test_a_limit_that_is_no_size_is_told(package: Path, home: Path, monkeypatch, said: str):
    monkeypatch.setenv("VLRT_CACHE_GB", said)
    with pytest.raises(InputError, match=f"VLRT_CACHE_GB '{said}': expected gigabytes"):
        ids(package)
    assert not home.exists()


def test_no_room_at_all_keeps_nothing(package: Path, home: Path, monkeypatch):
    monkeypatch.setenv("VLRT_CACHE_GB", "0")
    assert ids(package) == ids(package, cache=False)
    assert not home.exists()


@pytest.mark.parametrize(("version", "kept"), [("1.31.1", 0), ("1.32.0", 3), ("2.0.0.dev1", 3)])
def test_an_onnxruntime_that_saves_them_badly(package, monkeypatch, capsys, version, kept):
    monkeypatch.setattr(ort, "__version__", version)
    ids(package)
    assert main(["cache"]) == 0
    out = capsys.readouterr().out
    assert f"{kept} graphs" in out
    assert (f"onnxruntime {version} makes none; 1.32 and newer do" in out) == (kept == 0)


def test_a_half_removed_entry_is_made_again_once(package: Path, monkeypatch):
    ids(package)
    for entry in prepacked.entries():
        (entry.folder / prepacked.NOTE).unlink()
    assert ids(package) == ids(package, cache=False)
    assert sources() == list(GRAPHS)


def test_several_at_once(package: Path):
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: ids(package), range(3)))
    assert found[0] == found[1] == found[2] == ids(package)
    assert sources() == list(GRAPHS)


def test_who_comes_second_opens_the_graph_once(package: Path):
    seen: list[Path | None] = []

    def opener(path: Path, entries: dict[str, str], save: Path | None):
        return open_session(path, device="cpu", threads=1, entries=entries, save=save)

    def slow(path: Path, entries: dict[str, str], save: Path | None):
        seen.append(save)
        prepacked.Prepacked(opener, "cpu").session(path)  # another process meanwhile
        return opener(path, entries, save)

    session = prepacked.Prepacked(slow, "cpu").session(package / "projector.onnx")
    assert [value.name for value in session.get_inputs()] == ["image_features"]
    assert len(seen) == 1
    assert seen[0] is not None
    assert not seen[0].parent.exists()
    assert sources() == ["projector"]


def test_bytes_are_on_the_disk_before_the_name(package: Path, home: Path, monkeypatch):
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    inodes: dict[int, str] = {}

    def synced(descriptor: int) -> None:
        inodes[os.fstat(descriptor).st_ino] = "synced"
        sync(descriptor)

    def replaced(old: Path, new: Path) -> None:
        if Path(new).parent == home:
            done.extend(p.name for p in Path(old).iterdir() if p.stat().st_ino in inodes)
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    ids(package)
    assert sorted(done) == sorted([prepacked.GRAPH, prepacked.DATA, prepacked.NOTE] * 3)


def refuse(*_: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize("how", ["mode", "stand-in"])
def test_an_entry_of_another_user_is_passed_over(package: Path, home: Path, monkeypatch, how: str):
    expected = ids(package)
    there = sorted(home.iterdir())
    if how == "stand-in":
        monkeypatch.setattr(prepacked.Prepacked, "_kept", refuse)
        monkeypatch.setattr(prepacked, "remove", refuse)
    else:
        for folder in there:
            folder.chmod(0)
    try:
        if how == "mode" and os.access(there[0], os.R_OK):
            pytest.skip("this user may read all")
        seen = opened(monkeypatch)
        assert ids(package) == expected
        assert sorted(path.parent for path in seen) == [package] * 3
        assert sorted(home.iterdir()) == there
    finally:
        for folder in there:
            folder.chmod(0o700)


def test_verify_leaves_them_alone(package: Path, small_qwen2_vl: Path, home: Path):
    verify(package, small_qwen2_vl, max_new_tokens=1)
    assert not home.exists()


def test_cold_openings_of_bench_are_cold(package: Path, home: Path, monkeypatch, capsys):
    dropped: list[Path] = []
    monkeypatch.setattr(worker, "drop_cache", lambda files: dropped.extend(files) or True)
    case = Case(str(package), "cpu", 1, "none", None, 1, caches=False)
    worker._loads(worker.Task(case, 0.1, 1, 1, 1.0, loads=1))
    assert {p for p in home.rglob("*") if p.is_file()} == {p for p in dropped if home in p.parents}
    assert {p for p in package.iterdir() if p.name != "manifest.json"} <= set(dropped)
    figures = [json.loads(line)["load"][0] for line in capsys.readouterr().out.splitlines()]
    assert figures == ["load_cold", "load_warm"]


def test_what_cannot_be_removed_is_told(package: Path, home: Path, monkeypatch, capsys):
    ids(package)
    stays = prepacked.entries()[0]
    monkeypatch.setattr(
        cache, "remove", lambda p: refuse() if p == stays.folder else prepacked.remove(p)
    )
    assert main(["cache", "--clear"]) == 1
    out, err = capsys.readouterr()
    assert err == f"vlrt: cannot be removed: {stays.folder}: Permission denied\n"
    assert out.splitlines()[-1].startswith("2 graphs, ")
    assert main(["cache", "--clear", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["entries"], len(said["failed"])) == ([], 1)
    assert [entry.folder for entry in prepacked.entries()] == [stays.folder]


def test_the_command_shows_and_clears(package: Path, home: Path, capsys):
    ids(package)
    assert main(["cache", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert sorted(Path(row["graph"]).stem for row in said["entries"]) == list(GRAPHS)
    assert said["bytes"] == sum(row["bytes"] for row in said["entries"]) > 0
    assert all(abs(row["used"] - time.time()) < 600 for row in said["entries"])
    assert main(["cache"]) == 0
    assert "3 graphs" in capsys.readouterr().out
    assert main(["cache", "--clear"]) == 0
    assert "removed" in capsys.readouterr().out
    assert not home.exists()
    assert main(["cache"]) == 0
    assert capsys.readouterr().out.startswith("0 graphs, 0 MB kept")
