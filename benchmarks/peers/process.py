"""A process that is asked through a pipe, with the time at which each piece of its answer came."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.measure import PeerError, last_line

TIMEOUT = 900  # seconds for one answer


@dataclass(frozen=True)
class Piece:
    """Bytes that came at once, and when (`time.perf_counter`)."""

    data: bytes
    at: float


class Process:
    """A command whose standard error goes to a log."""

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        self.log = log
        self.started = time.perf_counter()
        try:
            with log.open("ab") as err:
                self._process = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, bufsize=0,
                )  # fmt: skip
        except OSError as error:
            raise PeerError(f"{command[0]}: {error.strerror}") from error
        self.pid = self._process.pid

    def write(self, text: str) -> None:
        """Sends text; raises PeerError where the process has ended."""
        assert self._process.stdin
        try:
            self._process.stdin.write(text.encode())
        except OSError as error:
            raise PeerError(self._end()) from error

    def read_until(self, end: bytes) -> list[Piece]:
        """The pieces up to one that ends so; raises PeerError where none comes."""
        assert self._process.stdout
        pieces, tail, deadline = list[Piece](), b"", time.monotonic() + TIMEOUT
        descriptor = self._process.stdout.fileno()
        while not tail.endswith(end):
            ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise PeerError(f"no answer within {TIMEOUT} s")
            data = os.read(descriptor, 1 << 16)
            if not data:
                raise PeerError(self._end())
            pieces.append(Piece(data, time.perf_counter()))
            tail = (tail + data)[-len(end) :]
        return pieces

    def close(self) -> None:
        """Closes its input and waits; ends it where it does not end by itself."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _end(self) -> str:
        return f"it ended with status {self._process.wait()}: {last_line(self.log)}"
