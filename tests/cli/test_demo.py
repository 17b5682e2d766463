"""`vlrt demo`, end to end: the shipped checkpoint exported, asked, and its boxes drawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from support.demo import scene
from vlrt.cli import main
from vlrt.demo import CHECKPOINT, PICTURE

VLRT = [sys.executable, "-m", "vlrt"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLRT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_demo_in_a_clean_home(home: Path, tmp_path: Path):
    """As a person runs it first: another folder, nothing exported before."""
    done = subprocess.run(
        [*VLRT, "demo"], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    questions = [line for line in done.stdout.splitlines() if line.startswith("> ")]
    assert questions[0] == "> Describe the picture."
    assert len(questions) == 3
    assert "ms to the first token" in done.stdout
    drawn = home / "demo.png"
    assert str(drawn) in done.stdout.splitlines()[-1]
    with Image.open(drawn) as annotated, Image.open(PICTURE) as original:
        assert annotated.size == original.size
        assert annotated.convert("RGB").tobytes() != original.convert("RGB").tobytes()
    assert (home / "packages" / "demo" / "manifest.json").is_file()


def test_own_picture_and_output(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    mine, out = tmp_path / "mine.png", tmp_path / "out.png"
    scene(3, "seen").picture.save(mine)
    assert main(["demo", "--image", str(mine), "-o", str(out)]) == 0
    assert str(mine) in capsys.readouterr().out
    with Image.open(out) as annotated, Image.open(mine) as original:
        assert annotated.size == original.size


@pytest.mark.parametrize(("name", "why"), [("no/such.png", "folder"), ("out.xyz", ".png")])
def test_an_output_that_cannot_be_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, why: str
):
    """Said before anything is asked, in one line."""
    assert main(["demo", "-o", str(tmp_path / name)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert why in said.err
    assert not home.exists()


def test_demo_is_a_package_like_any_other(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    command = ["run", "demo", "How many things are there?", "--image", str(PICTURE)]
    assert main(command) == 0
    first = capsys.readouterr().out
    # The second time nothing is exported: without its checkpoint it still answers.
    manifest = home / "packages" / "demo" / "manifest.json"
    written = manifest.stat().st_mtime_ns
    assert main(command) == 0
    assert capsys.readouterr().out == first
    assert manifest.stat().st_mtime_ns == written


def test_an_old_export_is_made_anew(home: Path):
    import json

    from vlrt.demo import demo_package

    manifest = demo_package() / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"vlrt_version": "0.0.1"}))
    assert demo_package() == manifest.parent
    assert json.loads(manifest.read_text())["vlrt_version"] != "0.0.1"


def test_the_checkpoint_is_small_and_complete():
    names = {path.name for path in CHECKPOINT.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= names
    assert {"preprocessor_config.json", "tokenizer_config.json", "chat_template.json"} <= names
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 16_000_000
