"""`vlrt serve` as a process of its own, and what it refuses before it serves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.commands import told
from vlrt.serve.server import bind


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts servers: the process, and its address. None outlives its test."""
    with contextlib.ExitStack() as ending:

        def starting(*argv: object, **environment: str) -> tuple[subprocess.Popen[str], str]:
            words = [sys.executable, "-m", "vlrt", "serve", *map(str, argv), "--port", "0"]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            environment = {**os.environ, **environment}
            process = subprocess.Popen(words, text=True, env=environment, **pipes)
            ending.enter_context(process)
            ending.callback(process.kill)
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            return process, found[0]

        yield starting


@pytest.mark.skipif(os.name != "posix", reason="signals of another kind")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(start, small_package: Path, number: int):
    process, url = start(small_package, "--name", "tiny", VLRT_API_KEY="secret")
    asked = urllib.request.Request(f"{url}/v1/models", headers={"authorization": "Bearer secret"})
    with urllib.request.urlopen(asked, timeout=20) as response:
        assert json.load(response)["data"][0]["id"] == "tiny"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert out.endswith("stopped\n")


def test_mistakes(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("VLRT_API_KEY", raising=False)
    assert "no package there" in told(command("serve", "nothing", "--port", 0), 2)
    assert "or let them with --no-key" in told(command("serve", "demo", "--host", "0.0.0.0"), 2)
    assert "no such folder" in told(command("serve", "demo", "--picture-folder", "nowhere"), 2)
    assert "cannot be read" in told(command("serve", "demo", "--api-key-file", "nothing"), 2)
    (tmp_path / "key").write_text("two words\n")
    assert "one key" in told(command("serve", "demo", "--api-key-file", tmp_path / "key"), 2)
    assert "--parallel: expected" in told(command("serve", "demo", "--parallel", 0), 2)
    assert "--port 70000" in told(command("serve", "demo", "--port", 70000), 2)
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert "Address already in use" in told(command("serve", "demo", "--port", port), 2)
