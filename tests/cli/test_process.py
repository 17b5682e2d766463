"""The command line as a process of its own: imports, pipes, encodings, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "vlrt")
HEAVY = {"numpy", "onnxruntime", "torch", "transformers", "tokenizers", "PIL", "jinja2", "rich"}
posix = pytest.mark.skipif(os.name != "posix", reason="pipes and signals of another kind")


def start(*argv: object, **environment: str) -> subprocess.Popen[bytes]:
    words = [*COMMAND, *map(str, argv)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, env={**os.environ, **environment}, **pipes)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Status, and what stderr said."""
    assert process.stderr is not None
    with process:
        said = process.stderr.read()
    return process.returncode, said


@pytest.mark.parametrize("argv", ["--help", "run --help", "--version"])
def test_help_imports_nothing_heavy(argv: str):
    code = f"""
import sys
from vlrt.cli import main
try:
    main({argv.split()!r})
except SystemExit as ended:
    assert ended.code == 0
print()
print(*{{name.partition('.')[0] for name in sys.modules}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(done.stdout.splitlines()[-1].split())


def test_a_mistake_is_a_line_and_status_2():
    process = start("run", "no-such-package", "x")
    status, said = ended(process)
    assert status == 2
    assert said.startswith(b"vlrt: no-such-package: no package there")
    assert said.count(b"\n") == 1


@posix
def test_a_closed_pipe_is_silent(small_package: Path):
    process = start("run", small_package, "x", "--max-new-tokens", 4000)
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert ended(process) == (0, b"")


@posix
def test_ctrl_c_is_130(small_package: Path):
    process = start("run", small_package, "x", "--max-new-tokens", 30_000)
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, b"vlrt: interrupted\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_narrow_pipe_takes_any_character(small_package: Path, encoding: str):
    argv = ("run", small_package, "x", "--max-new-tokens", 60, "--json")
    process = start(*argv, PYTHONIOENCODING=encoding)
    assert process.stdout is not None
    out = process.stdout.read()
    assert ended(process) == (0, b"")
    text = json.loads(out.decode("utf-8"))["text"]
    assert any(ord(letter) > 255 for letter in text)
