"""What the race knows of a peer: it is installed, makes a package, answers in a process."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import msgspec

from benchmarks.peers.measure import Cost, run, size_mb, watch
from benchmarks.peers.process import Process

RUNNERS = Path(__file__).parent / "runners"
VERSIONS = """\
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


@dataclass(frozen=True)
class Answer:
    """Seconds of one question.

    Attributes:
        encode: the picture through vision encoder and projector; None where it is not told apart.
        ttft: from the picture's file to the first id.
        decode: from the first id to the last.
        tokens: new ids.
        prompt_tokens: positions of the prompt, the picture's included; None where it is not told.
    """

    encode: float | None
    ttft: float
    decode: float
    tokens: int
    prompt_tokens: int | None = None


@dataclass(frozen=True)
class Exported:
    """What came of an export, on the day it was made; no cost where the checkpoint itself runs."""

    cost: Cost | None
    package_mb: float
    date: str


class Session(Protocol):
    """A peer with its model loaded, in a process of its own."""

    pid: int
    load: float

    def ask(self, picture: Path, question: str, *, first: bool) -> Answer:
        """Answers; the first question begins anew, others are about the same picture again."""
        ...

    def close(self) -> None:
        """Ends the process."""
        ...


class Peer(ABC):
    """A runtime to race against, in a folder of its own."""

    name: str
    precision: str
    requirements: tuple[str, ...] = ()
    named: tuple[str, ...] = ()  # distributions whose versions are told
    keeps_export = True

    def __init__(self, work: Path) -> None:
        self.folder = work / self.name.replace(" ", "-")
        self.package = self.folder / "package"
        self.log = self.folder / "log.txt"
        self.python = self.folder / "venv" / "bin" / "python"

    def install(self) -> None:
        """Makes the environment, unless it is there; raises PeerError."""
        stamp, wanted = self.folder / "installed.json", json.dumps(self.requirements)
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            watch([sys.executable, "-m", "venv", "--clear", self.python.parents[1]], self.log)
            watch([self.python, "-m", "pip", "install", "-q", *self.requirements], self.log)
            stamp.write_text(wanted)
        self.build()

    def build(self) -> None:  # noqa: B027  most have nothing to build
        """Makes what is needed besides the environment, unless it is there; raises PeerError."""

    def versions(self) -> dict[str, str]:
        """Of what the figures depend on."""
        return json.loads(run([self.python, "-c", VERSIONS, *self.named]))

    def export(self, checkpoint: Path, *, again: bool = False) -> Exported:
        """Makes the package, unless there is one of this checkpoint; raises PeerError."""
        note = self.folder / "exported.json"
        key = {"checkpoint": str(checkpoint.resolve()), "versions": self.versions()}
        if self.keeps_export and not again and note.exists():
            kept = json.loads(note.read_text())
            if kept["key"] == key:
                return msgspec.convert(kept["made"], Exported)
        note.unlink(missing_ok=True)
        cost = self.make(checkpoint)
        made = Exported(cost, size_mb(self.package), date.today().isoformat())
        note.write_bytes(msgspec.json.encode({"key": key, "made": made}))
        return made

    @abstractmethod
    def make(self, checkpoint: Path) -> Cost | None:
        """Writes the package, in place of an older one."""

    @abstractmethod
    def open(self, threads: int, new_tokens: int) -> Session:
        """Starts a process and loads the package; raises PeerError."""

    def extra(self, threads: int, new_tokens: int) -> dict[str, float]:
        """What the peer's own benchmark says, tokens/s by name; nothing where it has none."""
        return {}


class Runner:
    """A session with one of the runners: a JSON object a line, each way."""

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        self.process = Process(command, log)
        self.pid = self.process.pid
        self.load = self._reply()["load"]

    def ask(self, picture: Path, question: str, *, first: bool) -> Answer:
        """See `Session`."""
        self.process.write(
            json.dumps({"picture": str(picture), "question": question, "first": first}) + "\n"
        )
        return Answer(**self._reply())

    def close(self) -> None:
        """See `Session`."""
        self.process.close()

    def _reply(self) -> dict[str, Any]:
        return json.loads(b"".join(piece.data for piece in self.process.read_until(b"\n")))


class RunnerPeer(Peer):
    """A peer in Python: a runner of ours in its environment."""

    runner: str

    def open(self, threads: int, new_tokens: int) -> Runner:
        """See `Peer`."""
        command = [self.python, RUNNERS / self.runner, self.package]
        return Runner([*command, str(threads), str(new_tokens)], self.log)
