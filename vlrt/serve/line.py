"""Whose turn it is: first come, first served, and a bound on how many may wait."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from vlrt.serve.errors import ApiError, stopping

__all__ = ["Line"]

Moved = Callable[[int, int], None]  # takes the place (1 is next) and how many wait


@dataclass(eq=False)
class _Place:
    turn: asyncio.Future[None]
    moved: Moved


class Line:
    """A waiting line before `parallel` counters. Belongs to one event loop.

    Attributes:
        running: whose turn it is.
        seconds: that a turn takes, a running mean.
    """

    def __init__(self, parallel: int, most: int) -> None:
        self.parallel, self.most = parallel, most
        self.running = 0
        self.seconds = 0.3
        self._places: deque[_Place] = deque()
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._places)

    async def enter(self, moved: Moved) -> None:
        """Returns when the turn has come; `leave` ends it. Giving up (cancelling) is leaving.

        Raises:
            ApiError: too many wait, or the server is stopping.
        """
        if self._closed:
            raise stopping()
        if self.running < self.parallel and not self._places:
            self.running += 1
            return
        if self.waiting >= self.most:
            raise self._full()
        place = _Place(asyncio.get_running_loop().create_future(), moved)
        self._places.append(place)
        moved(self.waiting, self.waiting)
        try:
            await place.turn
        except asyncio.CancelledError:
            if place in self._places:
                self._places.remove(place)
                self._tell()
            elif not place.turn.cancelled() and place.turn.exception() is None:
                self.leave()  # the turn came just as nobody wanted it any more
            raise

    def leave(self, seconds: float | None = None) -> None:
        """A turn is over, having taken so long."""
        if seconds is not None:
            self.seconds += 0.2 * (seconds - self.seconds)
        self.running -= 1
        while self._places and self.running < self.parallel:
            place = self._places.popleft()
            if not place.turn.done():
                place.turn.set_result(None)
                self.running += 1
        self._tell()

    def close(self) -> None:
        """Nobody enters any more, and those who wait are sent away."""
        self._closed = True
        while self._places:
            place = self._places.popleft()
            if not place.turn.done():
                place.turn.set_exception(stopping())

    def _tell(self) -> None:
        for number, place in enumerate(self._places, 1):
            place.moved(number, self.waiting)

    def _full(self) -> ApiError:
        # As long as the line takes to empty, more or less: they shall not all come back at once.
        seconds = self.seconds * (self.waiting + 1) / self.parallel
        seconds = min(seconds * random.uniform(0.75, 1.25), 60.0)
        message = f"busy: {self.waiting} requests wait already; come back in {seconds:.1f} s"
        # OpenAI's clients take the second, which the first is too coarse for.
        headers = {
            "retry-after": str(math.ceil(seconds)),
            "retry-after-ms": str(math.ceil(seconds * 1e3)),
        }
        return ApiError(429, message, code="queue_full", headers=headers)
