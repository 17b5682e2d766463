"""Answers of one model take turns: so many at once are computed, others wait, first come first.

An answer keeps its turn while its pieces are taken. One whose reader pauses gives way to those who
wait, and goes on before all that came after it: a slow reader, a forgotten stream and two streams
read by one thread in turn stop nobody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import count

from vlrt_runtime.errors import InputError

__all__ = ["Turn", "Turns"]

PATIENCE = 2.0  # seconds that a reader may pause while others wait


class Turns:
    """The line before a model.

    Args:
        parallel: answers that are computed at once.
    """

    def __init__(self, parallel: int) -> None:
        if parallel < 1:
            raise InputError(f"parallel {parallel}: expected at least 1")
        self._parallel = parallel
        # Reentrant: a forgotten stream may be collected, and end its turn, at any moment.
        self._changed = threading.Condition(threading.RLock())
        self._tickets = count()
        self._waiting: list[Turn] = []
        self._holding: list[Turn] = []
        self._free: Callable[[], None] | None = None  # what waits until nothing is computed
        self._last = time.monotonic()  # that an answer was worked on

    def turn(self) -> Turn:
        """One for an answer, which lines up when it first takes it."""
        return Turn(self)

    def wake(self) -> None:
        """Those who wait look again whether they were cancelled."""
        with self._changed:
            self._changed.notify_all()

    def take(
        self, turn: Turn, cancelled: Callable[[], bool], tell: Callable[[int, int], None]
    ) -> None:
        """Waits for the turn, where it has to; no longer once it is cancelled."""
        told: tuple[int, int] | None = None
        while True:
            with self._changed:
                if cancelled():
                    self._waiting = [other for other in self._waiting if other is not turn]
                    self._changed.notify_all()
                    return
                place = self._place(turn)
                if place is not None and place == told:
                    self._changed.wait(self._patience())
                    continue
            if place is None:
                return
            tell(*place)
            told = place

    def rest(self, turn: Turn) -> None:
        """The answer's reader has a piece, and will ask for the next one."""
        with self._changed:
            turn.resting = self._last = time.monotonic()
            if self._waiting:
                self._changed.notify_all()

    def end(self, turn: Turn) -> None:
        """The answer is over."""
        with self._changed:
            self._waiting = [other for other in self._waiting if other is not turn]
            self._holding = [other for other in self._holding if other is not turn]
            self._last = time.monotonic()
            self._check_free()
            self._changed.notify_all()

    def when_free(self, action: Callable[[], None]) -> None:
        """Calls it as soon as no answer is computed: now, or before the next one is."""
        with self._changed:
            self._free = action
            self._check_free()

    def idle_for(self) -> float:
        """Seconds since an answer was last computed; 0 while one is, or waits."""
        with self._changed:
            busy = self._waiting or any(turn.resting is None for turn in self._holding)
            return 0.0 if busy else time.monotonic() - self._last

    def _check_free(self) -> None:
        action = self._free
        if action is not None and all(turn.resting is not None for turn in self._holding):
            self._free = None
            action()

    def _place(self, turn: Turn) -> tuple[int, int] | None:
        """Where it stands in line, and how many do; None where it has its turn."""
        if turn not in self._holding:
            if turn.ticket is None:
                turn.ticket = next(self._tickets)
            if turn not in self._waiting:
                self._waiting = sorted([*self._waiting, turn], key=lambda each: each.ticket or 0)
                self._changed.notify_all()
            self._give_way()
            index = self._waiting.index(turn)
            if index >= self._parallel - len(self._holding):
                return index + 1, len(self._waiting)
            self._waiting = [other for other in self._waiting if other is not turn]
            self._holding = [*self._holding, turn]
            self._changed.notify_all()
        turn.resting, turn.thread = None, threading.current_thread()
        return None

    def _give_way(self) -> None:
        """Ends the turns of those whose readers pause, this thread among them: it waits here."""
        now, here = time.monotonic(), threading.current_thread()
        kept = [
            turn
            for turn in self._holding
            if turn.resting is None or (turn.thread is not here and now - turn.resting < PATIENCE)
        ]
        if len(kept) < len(self._holding):
            self._holding = kept
            self._changed.notify_all()

    def _patience(self) -> float | None:
        """Seconds until the next one gives way; None where nobody pauses."""
        since = [turn.resting for turn in self._holding if turn.resting is not None]
        return max(0.0, min(since) + PATIENCE - time.monotonic()) if since else None


class Turn:
    """One answer's turn.

    Attributes:
        ticket: its number in the line, once it is there.
        thread: that read its last piece.
        resting: when its reader got that piece; None while it is computed.
    """

    def __init__(self, turns: Turns) -> None:
        self.ticket: int | None = None
        self.thread: threading.Thread | None = None
        self.resting: float | None = None
        self._turns = turns

    def take(self, cancelled: Callable[[], bool], tell: Callable[[int, int], None]) -> None:
        """See `Turns.take`."""
        self._turns.take(self, cancelled, tell)

    def rest(self) -> None:
        """See `Turns.rest`."""
        self._turns.rest(self)

    def end(self) -> None:
        """See `Turns.end`."""
        self._turns.end(self)
