"""Ends what is being computed, from another thread: a picture's encoder takes seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

__all__ = ["Halt", "Halted", "check_halt", "haltable"]

_current: ContextVar[Halt | None] = ContextVar("halt", default=None)


class Halted(Exception):  # noqa: N818  it is no error
    """What was computed was ended before it was done."""


class Halt:
    """Whether something is to end, and what ends that which runs now."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may set it at any moment
        self._set = False
        self._end: Callable[[], None] | None = None

    def is_set(self) -> bool:
        """It is to end."""
        return self._set

    def set(self) -> None:
        """Ends it; from any thread, and again without harm."""
        with self._lock:
            self._set = True
            if self._end is not None:
                self._end()

    def check(self) -> None:
        """Raises `Halted` where it is to end."""
        if self._set:
            raise Halted

    @contextmanager
    def over(self) -> Generator[None]:
        """What this thread computes within can be ended by this."""
        token = _current.set(self)
        try:
            self.check()
            yield
        finally:
            _current.reset(token)

    @contextmanager
    def ends(self, end: Callable[[], None]) -> Generator[None]:
        """Within, `set` calls `end`, and whatever fails after it failed because of it."""
        try:
            with self._lock:
                self._end = end
                self.check()
            yield
        except Exception as error:
            if self._set:
                raise Halted from error
            raise
        finally:
            with self._lock:
                self._end = None


def check_halt() -> None:
    """Raises `Halted` where what this thread computes is to end."""
    halt = _current.get()
    if halt is not None:
        halt.check()


def haltable(end: Callable[[], None]) -> AbstractContextManager[None]:
    """Around a run that `end` can stop: it is called where this thread's `Halt` is set.

    Raises:
        Halted: it was; the run's results are none.
    """
    halt = _current.get()
    return nullcontext() if halt is None else halt.ends(end)
