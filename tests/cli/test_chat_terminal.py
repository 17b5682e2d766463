"""`vlrt chat` in a real terminal: Ctrl-C, history, editing, completion; and Ctrl-C over a pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pexpect: Any = pytest.importorskip("pexpect", reason="needs pexpect")
if not hasattr(pexpect, "spawn"):
    pytest.skip("no terminals of this kind on Windows", allow_module_level=True)

COMMAND = "import sys; from vlrt.cli import main; sys.exit(main())"
WITHOUT = (
    "import sys; sys.modules['prompt_toolkit'] = None; from vlrt.cli import main; sys.exit(main())"
)
LONG = ("--max-new-tokens", "100000")  # it would take minutes
PROMPT = r"\x1b\[\?2004h|> $"  # what prompt_toolkit begins a line with, or Python
UP, PASTE = "\x1b[A", "\x1b[200~{}\x1b[201~"


@pytest.fixture
def open_chat(small_package: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts it in a terminal, and waits for its first prompt."""
    children: list[Any] = []

    def start(*options: str, code: str = COMMAND) -> Any:
        environment = {**os.environ, "VLRT_HOME": str(tmp_path / "state"), "TERM": "xterm"}
        environment["PROMPT_TOOLKIT_NO_CPR"] = "1"  # nobody answers where the cursor is
        argv = ["-c", code, "chat", str(small_package), *options]
        child = pexpect.spawn(
            *(sys.executable, argv), env=environment, encoding="utf-8", timeout=20,
            dimensions=(40, 400), codec_errors="replace",
        )  # fmt: skip
        children.append(child)
        child.expect("/help lists commands")
        child.expect(PROMPT)
        return child

    yield start
    for child in children:
        child.close(force=True)


def leave(child: Any) -> int:
    child.sendline("/quit")
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


@pytest.mark.parametrize("code", [COMMAND, WITHOUT])
def test_ctrl_c_stops_the_answer_and_not_the_program(open_chat, code: str):
    child = open_chat(*LONG, code=code)
    for question in ("What?", "And this?"):
        child.sendline(question)
        child.expect_exact("reading")  # what it is at, until there are words in its place
        child.expect(r"\x1b\[K(?!reading)[^\x1b]{20}")
        child.sendintr()
        child.expect_exact("[stopped]")
        child.expect(PROMPT)
    child.sendline("/stats")
    child.expect(r"total: +[0-9.]+ s, [0-9]+ tokens, cancelled")
    child.sendline("/undo")
    child.expect_exact("[taken back: And this?]")
    child.sendintr()  # of the question that stands there again
    assert leave(child) == 0


def test_ctrl_c_ends_a_line_and_ctrl_d_the_program(open_chat):
    child = open_chat()
    child.send("What")
    child.sendintr()
    child.expect(PROMPT)
    child.send("\x04")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_history_outlives_the_program_and_is_its_owners(open_chat, tmp_path: Path):
    child = open_chat("--max-new-tokens", "2")
    child.sendline("What is remembered?")
    child.expect_exact("[cut")
    assert leave(child) == 0
    history = tmp_path / "state" / "chat_history"
    assert history.stat().st_mode & 0o077 == 0
    child = open_chat("--max-new-tokens", "2")
    child.send(UP + UP)
    child.expect_exact("What is remembered?")


def test_commands_and_paths_are_completed(open_chat, photo: str):
    child = open_chat()
    child.send("/sta\t")
    child.expect_exact("/stats")
    child.sendintr()
    child.expect(PROMPT)
    child.send(f"/image {photo[:-6]}\t")
    child.expect_exact("to.png")
    child.send("\r")
    child.expect_exact("[photo.png, 90 x 60: for your next question]")


def test_a_file_dropped_in(open_chat, photo: str):
    child = open_chat("--max-new-tokens", "2")
    child.send(PASTE.format(f"'{photo}' "))
    child.send("What?\r")
    child.expect_exact("[photo.png, 90 x 60: for your next question]")
    child.expect_exact("[cut")
    child.sendline("/undo")
    child.expect_exact("[1 picture of it")


def test_errors_are_told_and_the_conversation_goes_on(open_chat):
    child = open_chat("--max-new-tokens", "2")
    child.sendline("/image nowhere.png")
    child.expect_exact("vlrt: picture cannot be opened: 'nowhere.png'")
    child.sendline("What?")
    child.expect_exact("[cut")
    assert leave(child) == 0


def test_ctrl_c_over_a_pipe_ends_the_program(small_package: Path):
    child = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "chat", str(small_package), *LONG],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"What?\n" * 100)
    child.stdin.flush()
    assert child.stdout.read(20)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, b"vlrt: interrupted\n")
