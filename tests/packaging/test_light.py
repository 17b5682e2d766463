"""Packages run without torch, transformers and onnx: where these are present, and where not."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.pictures import picture

HEAVY = (
    *("torch", "transformers", "onnx", "onnxscript", "onnx_ir"),
    *("huggingface_hub", "safetensors", "ml_dtypes"),
)
SLOW = ("numpy", "onnxruntime", "PIL", "tokenizers", "jinja2", "msgspec", "rich", "vlrt_export")
# What a base installation has: tokenizers asks for huggingface_hub, for a part we never call.
ABSENT = tuple(name for name in HEAVY if name != "huggingface_hub")

Vlrt = Callable[..., subprocess.CompletedProcess[str]]


def execute(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    picture(96, 64).save(path)
    return path


# ------------------------------------------------------------------ where they are present

IMPORT = "import vlrt"
GENERATE = """
import sys, vlrt
answer = vlrt.load(sys.argv[1]).generate("What?", images=[sys.argv[2]], max_new_tokens=3)
assert answer.token_ids
"""
COMMAND = """
import sys
from vlrt.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as ended:
    status = ended.code
assert status == 0
"""
REPORT = "\nimport sys; print('\\n' + ' '.join(sys.modules))"


def imported(code: str, *arguments: object, cwd: Path) -> set[str]:
    done = execute(sys.executable, "-c", code + REPORT, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_the_heavy_libraries_are_here_to_be_found():
    assert [name for name in HEAVY if importlib.util.find_spec(name) is None] == []
    assert "onnx" in imported("import onnx", cwd=Path.cwd())


@pytest.mark.parametrize(
    ("code", "arguments"), [(IMPORT, ()), (COMMAND, ("--help",)), (COMMAND, ("run", "--help"))]
)
def test_imports_and_help_are_instant(code: str, arguments: tuple[str, ...], tmp_path: Path):
    assert imported(code, *arguments, cwd=tmp_path).isdisjoint({*HEAVY, *SLOW})


def test_generating_loads_nothing_heavy(tiny_package: Path, photo: Path, tmp_path: Path):
    loaded = imported(GENERATE, tiny_package, photo, cwd=tmp_path)
    assert "onnxruntime" in loaded
    assert loaded.isdisjoint({*HEAVY, "vlrt_export"})


def test_commands_load_nothing_heavy(tiny_package: Path, photo: Path, tmp_path: Path):
    run = ("run", tiny_package, "What?", "--image", photo, "--max-new-tokens", 3, "--stats")
    for arguments in (run, ("inspect", tiny_package, "--check"), ("models",)):
        assert imported(COMMAND, *arguments, cwd=tmp_path).isdisjoint(HEAVY), arguments


# ------------------------------------------------------------------ where they are absent


@pytest.fixture(scope="module")
def light(built) -> Iterator[Path]:
    """The scripts' folder of a new environment with the wheel and what it asks for."""
    with tempfile.TemporaryDirectory(prefix="vlrt-light-") as name:
        folder = Path(name)
        done = execute(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
        assert done.returncode == 0, done.stderr
        pip = (sys.executable, "-m", "pip", "--python", folder)
        done = execute(*pip, "install", built.wheel, cwd=folder)
        if done.returncode != 0:
            if execute(*pip, "index", "versions", "platformdirs", cwd=folder).returncode != 0:
                pytest.skip("PyPI cannot be reached: " + done.stderr.strip().rpartition("\n")[2])
            pytest.fail(done.stderr)
        yield folder / ("Scripts" if os.name == "nt" else "bin")


@pytest.fixture
def vlrt_command(light: Path, tmp_path: Path) -> Vlrt:
    return lambda *arguments: execute(light / "vlrt", *arguments, cwd=tmp_path)


def test_a_base_installation_has_none_of_them(light: Path, tmp_path: Path):
    code = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    done = execute(light / "python", "-c", code, *ABSENT, cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_run_answers_as_it_does_here(
    vlrt_command: Vlrt, tiny_package: Path, photo: Path, tmp_path: Path
):
    arguments = ("run", tiny_package, "What?", "--image", photo, "--max-new-tokens", 5, "--json")
    done = vlrt_command(*arguments)
    assert done.returncode == 0, done.stderr
    here = execute(sys.executable, "-c", COMMAND, *arguments, cwd=tmp_path)
    answer, expected = json.loads(done.stdout), json.loads(here.stdout)
    assert answer["image_tokens"] > 0
    assert answer["token_ids"]
    assert {**answer, "timings_ms": None} == {**expected, "timings_ms": None}


def test_inspect_works(vlrt_command: Vlrt, tiny_package: Path):
    done = vlrt_command("inspect", tiny_package, "--check")
    assert done.returncode == 0, done.stderr
    assert "qwen2_vl" in done.stdout


@pytest.mark.parametrize("arguments", [("models",), ("models", "--json"), ("--version",)])
def test_what_needs_no_package_works(vlrt_command: Vlrt, arguments: tuple[str, ...]):
    done = vlrt_command(*arguments)
    assert (done.returncode, done.stderr) == (0, "")


def test_export_says_what_to_install(vlrt_command: Vlrt, small_qwen2_vl: Path, tmp_path: Path):
    done = vlrt_command("export", small_qwen2_vl, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "pip install 'vlrt[export]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_verify_says_what_to_install(vlrt_command: Vlrt, tiny_package: Path, small_qwen2_vl: Path):
    done = vlrt_command("verify", tiny_package, "--against", small_qwen2_vl)
    assert done.returncode == 2
    assert "pip install" in done.stderr
    assert done.stderr.count("\n") == 1
