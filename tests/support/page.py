"""The page of `vlrt serve`, driven as a person would: a real server, a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Locator, Page, Request, expect

from vlrt.demo import PICTURE

__all__ = ["PICTURE", "Visit", "serving"]

LISTENS = re.compile(r"http://[^\s/]+")


@contextlib.contextmanager
def serving(*argv: object, **environment: str) -> Iterator[str]:
    """`vlrt serve ARGV` as a process of its own; yields its address."""
    command = [sys.executable, "-m", "vlrt", "serve", *map(str, argv), "--port", "0"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert server.stdout is not None
    try:
        first = server.stdout.readline()
        found = LISTENS.search(first)
        assert found, f"{' '.join(command)}: {first!r}"
        yield found[0]
    finally:
        server.terminate()
        server.communicate(timeout=20)


@dataclass
class Visit:
    """The page, opened; `faults` gathers what must not happen."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(f"thrown: {error}"))
        self.page.on("request", self._request)
        self.page.goto(self.url)

    def pick(self, *files: Any) -> None:
        """Chooses files, by the dialog that its button opens; the demo's picture without any."""
        button = self.page.locator("[data-pick]:visible")
        with self.page.expect_file_chooser() as chosen:
            button.click()
        chosen.value.set_files(list(files) or PICTURE)

    def ask(self, question: str) -> Locator:
        """The turn of a question; it need not be answered yet."""
        self.page.get_by_label("Your question").fill(question)
        self.page.keyboard.press("Enter")
        turn = self.page.get_by_role("article").last
        expect(turn.get_by_role("heading")).to_have_text(question)
        return turn

    def answer(self, question: str) -> str:
        """The whole answer to a question."""
        turn = self.ask(question)
        expect(turn.locator(".timings")).to_be_visible()
        return turn.locator(".answer").inner_text()

    def stop(self, turn: Locator) -> None:
        """By the keyboard."""
        self.page.keyboard.press("Escape")
        expect(turn.locator(".note")).to_have_text("Stopped.")

    def sent(self) -> dict[str, Any]:
        """The body of the newest question."""
        asked = [each for each in self.requests if each.url.endswith("/v1/chat/completions")]
        return json.loads(asked[-1].post_data or "")

    def waiting(self) -> int:
        """Answers that the server computes."""
        return self.page.request.get(f"{self.url}/health").json()["running"]

    def _console(self, message: Any) -> None:
        # Chromium itself logs a line for each status over 399; those are the tests' business.
        if not message.text.startswith("Failed to load resource"):
            self.faults.append(f"console: {message.text}")

    def _request(self, request: Request) -> None:
        self.requests.append(request)
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.url:
            self.faults.append(f"request: {request.url}")
