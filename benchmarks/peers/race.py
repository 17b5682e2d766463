"""The race: every peer installed and exported for, then asked in turn, a process a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.measure import PeerError, memory_mb
from benchmarks.peers.peer import Answer, Exported, Peer
from benchmarks.peers.pictures import Task, task

Size = tuple[int, int]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What all peers have in common."""

    checkpoint: Path
    threads: int
    new_tokens: int
    rounds: dict[str, int]  # by size, as 500x336


@dataclass(frozen=True)
class Sample:
    """One round of one peer.

    Attributes:
        load: seconds until it takes questions, its files in the page cache.
        fresh: the process's first answer.
        first: a question about another picture of the same size.
        second: another about the same picture.
        rss_mb: the most that was resident until the fresh answer was done, mapped files included.
        private_mb: what the process had to itself at that time.
    """

    peer: str
    size: str
    load: float
    fresh: Answer
    first: Answer
    second: Answer
    rss_mb: float
    private_mb: float


@dataclass
class Results:
    """Everything a race has found. A peer with failures says why it lacks figures."""

    samples: list[Sample] = field(default_factory=list)
    exports: dict[str, Exported | None] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    precision: dict[str, str] = field(default_factory=dict)
    extras: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def prepare(
    peers: Sequence[Peer], settings: Settings, results: Results, say: Say, *, again: bool = False
) -> None:
    """Installs and exports; what fails is noted in the results."""
    for peer in peers:
        results.failures.pop(peer.name, None)
        with _Noted(peer, results, say):
            peer.folder.mkdir(parents=True, exist_ok=True)
            say(f"{peer.name}: environment")
            peer.install()
            say(f"{peer.name}: export")
            exported = peer.export(settings.checkpoint, again=again)
            results.exports[peer.name] = exported
            results.versions[peer.name] = peer.versions()
            results.precision[peer.name] = peer.precision


def race(
    peers: Sequence[Peer], settings: Settings, results: Results, folder: Path, say: Say
) -> None:
    """Asks the peers in turn; a peer that fails is noted and asked no more."""
    for size, rounds in settings.rounds.items():
        width, height = map(int, size.split("x"))
        counts = Counter(s.peer for s in results.samples if s.size == size)
        done = max((counts[peer.name] for peer in peers), default=0)
        for number in range(done, done + rounds):
            asked = task(folder, (width, height), number)
            for peer in peers:
                if peer.name in results.failures:
                    continue
                with _Noted(peer, results, say):
                    sample = measure(peer, settings, size, asked)
                    results.samples.append(sample)
                    say(_line(sample))
    for peer in peers:
        if peer.name not in results.failures and peer.name not in results.extras:
            with _Noted(peer, results, say):
                extra = peer.extra(settings.threads, settings.new_tokens)
                results.extras.update({peer.name: extra} if extra else {})


def measure(peer: Peer, settings: Settings, size: str, asked: Task) -> Sample:
    """One round of a peer, in a process of its own; raises PeerError."""
    _read_through(peer.package)
    session = peer.open(settings.threads, settings.new_tokens)
    try:
        fresh = session.ask(asked.before, asked.question, first=True)
        rss_mb, private_mb = memory_mb(session.pid)
        first = session.ask(asked.picture, asked.question, first=True)
        second = session.ask(asked.picture, asked.second, first=False)
        load = session.load
    finally:
        session.close()
    for answer in (fresh, first, second):
        if answer.tokens != settings.new_tokens:
            raise PeerError(f"{answer.tokens} new tokens, expected {settings.new_tokens}")
    return Sample(peer.name, size, load, fresh, first, second, rss_mb, private_mb)


class _Noted:
    """Notes what goes wrong with a peer, and lets the race go on."""

    def __init__(self, peer: Peer, results: Results, say: Say) -> None:
        self.peer, self.results, self.say = peer, results, say

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, PeerError | OSError | ValueError):
            return False
        reason = f"{type(error).__name__}: {error}"
        self.results.failures[self.peer.name] = str(error) if kind is PeerError else reason
        self.say(f"{self.peer.name}: FAILED: {self.results.failures[self.peer.name]}")
        return True


def _read_through(package: Path) -> None:
    """Brings a package into the page cache."""
    for path in package.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass


def _line(sample: Sample) -> str:
    first, rate = sample.first, (sample.first.tokens - 1) / sample.first.decode
    encode = "-" if first.encode is None else f"{first.encode:.2f} s"
    return (
        f"{sample.peer}, {sample.size}: load {sample.load:.2f} s, encode {encode}, first token "
        f"{first.ttft:.2f} s ({sample.fresh.ttft:.2f} s when fresh), {rate:.1f} tokens/s, "
        f"second question {sample.second.ttft:.2f} s, "
        f"{sample.rss_mb:.0f} MB peak, {sample.private_mb:.0f} MB private"
    )
