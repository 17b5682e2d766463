"""Seconds and memory of other processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL = 0.25  # seconds between looks at a process's memory; each stops it for some milliseconds


class PeerError(Exception):
    """A peer cannot be installed, exported for or run: the message says why, in one line."""


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds, and the most megabytes, mapped files included or not."""

    seconds: float
    rss_mb: float
    private_mb: float

    def then(self, other: Cost) -> Cost:
        """Of this command and another after it."""
        return Cost(
            self.seconds + other.seconds,
            max(self.rss_mb, other.rss_mb),
            max(self.private_mb, other.private_mb),
        )


def watch(command: Sequence[str | Path], log: Path, env: dict[str, str] | None = None) -> Cost:
    """Runs a command, its output added to a log, and what it took with all its children.

    Raises:
        PeerError: it failed; with the last line it said.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        out.write(f"\n$ {' '.join(map(str, command))}\n".encode())
        out.flush()
        started = time.perf_counter()
        try:
            process = psutil.Popen([str(part) for part in command], stdout=out, stderr=out, env=env)
        except OSError as error:
            raise PeerError(f"{command[0]}: {error.strerror}") from error
        resident = private = 0
        while process.poll() is None:
            members = _memory([process, *_children(process)])
            resident = max(resident, sum(rss for rss, _ in members))
            private = max(private, sum(uss for _, uss in members))
            time.sleep(POLL)
        seconds = time.perf_counter() - started
    if process.returncode:
        name = Path(command[0]).name
        raise PeerError(f"{name}: exit status {process.returncode}: {last_line(log)}")
    return Cost(seconds, resident / 1e6, private / 1e6)


def last_line(log: Path) -> str:
    """The last line with anything in it, cut to a readable length."""
    lines = log.read_text("utf-8", errors="replace").splitlines()  # progress bars too
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:200] if said else "it said nothing"


def memory_mb(pid: int) -> tuple[float, float]:
    """The most megabytes a process had resident until now, and those it has to itself now."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    private = psutil.Process(pid).memory_full_info().uss
    return peak * 1024 / 1e6, private / 1e6


def size_mb(folder: Path) -> float:
    """Of all files in a folder."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6


def run(command: Sequence[str | Path]) -> str:
    """What a quick command prints.

    Raises:
        PeerError: it failed.
    """
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise PeerError(f"{Path(command[0]).name}: exit status {done.returncode}: {said[-1]}")
    return done.stdout


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _memory(processes: Sequence[psutil.Process]) -> list[tuple[int, int]]:
    found = []
    for process in processes:
        try:
            memory = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
            continue
        found.append((memory.rss, memory.uss))
    return found
