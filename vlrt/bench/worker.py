"""Measures one case in a process of its own: `python -m vlrt.bench.worker`, JSON in, lines out.

A process of its own, so that memory and openings are this case's alone. Every line of standard
output is an object with one key, which the parent adds to the row; so what was measured is kept
whenever it ends.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import traceback
from collections.abc import Generator
from functools import partial
from typing import Any

import msgspec

from vlrt.bench.answer import Made, answer
from vlrt.bench.energy import Energy
from vlrt.bench.machine import drop_cache, gpu_memory, mhz, private_memory
from vlrt.bench.plan import ANOTHER, NONE, picture_bytes, prompt_of
from vlrt.bench.record import Case
from vlrt.bench.repeat import Rule, repeat
from vlrt_runtime.errors import VlrtError
from vlrt_runtime.memory import peak_rss
from vlrt_runtime.model import Model
from vlrt_runtime.package import Package
from vlrt_runtime.prepacked import kept_files

__all__ = ["Task", "main"]


class Task(msgspec.Struct):
    """What the parent asks: runs of the case, or openings of its package where `loads` is set."""

    case: Case
    bound: float
    min_runs: int
    max_runs: int
    max_seconds: float
    loads: int = 0

    @property
    def rule(self) -> Rule:
        """When to stop."""
        return Rule(self.min_runs, self.max_runs, self.bound, self.max_seconds)


def main() -> int:
    """Reads a task, writes what it measures."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    try:
        (_loads if task.loads else _runs)(task)
    except VlrtError as error:
        _tell(ended=f"failed: {error}")
    except Exception as error:  # noqa: BLE001  the parent tells it, and goes on with other rows
        traceback.print_exc()
        _tell(ended=f"failed: {type(error).__name__}: {error}")
    return 0


def _loads(task: Task) -> None:
    case = task.case
    package = Package.open(case.package)
    files = [package.path(name) for name in package.manifest.files]

    def load() -> float:
        return Model(case.package, device=case.device, threads=case.threads).load_ms

    load()  # the first makes prepacked weights where there are none
    for _ in range(task.loads):
        for figure in ("load_cold", "load_warm"):
            if figure == "load_cold" and not drop_cache([*files, *kept_files(package.folder)]):
                _tell(note="load cold: this system cannot drop files from its page cache")
                continue
            _tell(load=[figure, load()])


def _runs(task: Task) -> None:
    case = task.case
    model = Model(case.package, device=case.device, threads=case.threads)
    pictures = [] if case.image == NONE else [picture_bytes(case.image)]
    prompt = prompt_of(model, case, pictures)
    if case.caches:
        model.generate(ANOTHER, images=pictures, max_new_tokens=1)
    ask = partial(answer, model, prompt, pictures, case.new_tokens, caches=case.caches)
    first = ask()  # the warm-up, picture and all
    digest = _digest(first)
    _tell(counts=first.counts, digest=digest)
    started = time.perf_counter()

    def once() -> dict[str, float]:
        with Energy(model.device) as energy:
            made = ask()
        if _digest(made) != digest:
            _tell(note="two runs gave different ids: greedy decoding should not")
        run = msgspec.structs.replace(
            made.run, at=made.run.at - started, mhz=mhz(), joules=energy.joules
        )
        _tell(run=msgspec.to_builtins(run))
        return made.run.stages

    ended = _outcome(repeat(once, task.rule))
    sizes = {"peak_rss": peak_rss(), "private": private_memory(), "gpu": gpu_memory()}
    _tell(memory={name: size for name, size in sizes.items() if size}, ended=ended)


def _outcome(runs: Generator[object, None, str]) -> str:
    """What a generator returns, its items left aside."""
    try:
        while True:
            next(runs)
    except StopIteration as end:
        return str(end.value)


def _digest(made: Made) -> str:
    return hashlib.sha256(json.dumps(made.token_ids).encode()).hexdigest()


def _tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    sys.exit(main())
