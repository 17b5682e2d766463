"""An app frozen by PyInstaller, as it comes out without options: whole, light, and on its own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import vlrt
from vlrt.demo import PICTURE, demo_package

pytest.importorskip("PyInstaller", reason="needs pyinstaller")

ROOT = Path(__file__).parents[2]
APP = ROOT / "examples" / "desktop" / "ask.py"
HEAVY = {
    *("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "scipy", "coremltools"),
    *("huggingface_hub", "vlrt_export", "rich", "prompt_toolkit", "IPython", "PySide6", "tkinter"),
}
QUESTIONS = ("Describe the picture.", "Where is the black star?")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, in a folder with all that it needs; the demo model's package is inside."""
    if not any(entry.value.startswith("vlrt.") for entry in entry_points(group="pyinstaller40")):
        assert "VLRT_WHEEL" not in os.environ
        pytest.skip("vlrt was installed before it had hooks: pip install it again")
    folder = tmp_path_factory.mktemp("frozen")
    data = f"{demo_package()}{os.pathsep}package"
    command = [sys.executable, "-m", "PyInstaller", "--add-data", data, APP]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "dist" / "ask" / ("ask.exe" if os.name == "nt" else "ask")


def run(app: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Without an environment: no path to a Python, no home, no locale."""
    words = [str(word) for word in (app, *arguments)]
    return subprocess.run(words, cwd=cwd, env={}, capture_output=True, text=True, check=False)


def modules(app: Path) -> set[str]:
    """Every module inside, as PyInstaller's own reader finds them."""
    from PyInstaller.archive.readers import CArchiveReader

    return set(CArchiveReader(str(app)).open_embedded_archive("PYZ.pyz").toc)


@pytest.mark.parametrize("question", QUESTIONS)
def test_it_answers_as_vlrt_does(app: Path, question: str, tmp_path: Path):
    done = run(app, PICTURE, question, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    expected = vlrt.load("demo").generate(question, images=[PICTURE], max_new_tokens=64)
    assert done.stdout == expected.text + "\n"


def test_mistakes_are_a_line(app: Path, tmp_path: Path):
    done = run(app, "missing.png", "What?", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ask: picture cannot be opened: 'missing.png'")
    assert done.stderr.count("\n") == 1


def test_all_of_the_runtime_is_inside_and_nothing_heavy(app: Path):
    inside = modules(app)
    runtime = ROOT / "runtime"
    files = [path.relative_to(runtime) for path in (runtime / "vlrt_runtime").rglob("*.py")]
    expected = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files}
    assert len(expected) > 30
    assert expected <= inside
    assert {name for name in inside if name.partition(".")[0] in HEAVY} == set()
    data = {path.name for path in (app.parent / "_internal").iterdir()}
    assert data & HEAVY == set()
    assert (app.parent / "_internal" / "vlrt" / "demo" / PICTURE.name).is_file()
