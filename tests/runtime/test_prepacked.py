"""Prepacked weights: the same answers, made once, and never in the way."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.pictures import picture
from vlrt.cli import main
from vlrt_export.exporter import export
from vlrt_runtime import prepacked
from vlrt_runtime.errors import InputError
from vlrt_runtime.model import Model

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
def test_graphs_with_branches_and_floats_survive_it(family: str, tmp_path: Path, request):
    checkpoint = request.getfixturevalue(f"small_{family}")
    package = export(checkpoint, tmp_path / "package", precision="fp16")
    assert ids(package) == ids(package) == ids(package, cache=False)


def test_another_file_is_another_entry(package: Path):
    ids(package)
    before = {entry.folder for entry in prepacked.entries()}
    data = package / "decoder.onnx.data"
    os.utime(data, ns=(1, data.stat().st_mtime_ns + 1))
    ids(package)
    assert len({entry.folder for entry in prepacked.entries()} - before) == 1


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
    left = home / f"{prepacked.PARTIAL}crash"
    left.mkdir()
    os.utime(left, (1, 1))
    total = sum(entry.nbytes for entry in [old, *others])
    prepacked._make_room(others[0].folder, total - 1)
    assert {e.folder for e in prepacked.entries()} == {e.folder for e in others}
    assert not left.exists()


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
