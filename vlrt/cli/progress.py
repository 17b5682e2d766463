"""Progress bars on stderr: nothing where it is no terminal, or for what ends at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["progress_bar"]

PATIENCE = 0.5  # seconds without a bar; most of what is shorter needs none


@contextmanager
def progress_bar() -> Generator[Callable[[str, int, int], None]]:
    """Gives a function to call with (what, bytes done, bytes in all)."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[str, object] = {}
    started = time.perf_counter()

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            if time.perf_counter() - started < PATIENCE:
                return
            bar.start()
            tasks[what] = bar.add_task(what.replace("_", " "), total=total)
        bar.update(tasks[what], completed=done, total=total)  # pyright: ignore[reportArgumentType]

    try:
        yield show
    finally:
        bar.stop()
