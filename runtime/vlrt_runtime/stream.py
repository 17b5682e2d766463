"""An answer as it comes: `Stream` for threads, `AsyncStream` for an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, cast

from vlrt_runtime.answer import Answer

__all__ = ["AsyncStream", "Stream", "interruptible"]

LISTEN = 0.1  # seconds: on Windows, waiting without end hears no Ctrl-C


class Stream(Iterator[str]):
    """Pieces of an answer; `answer` is whole once they have ended.

    Nothing is computed before the first is asked for. Leaving it early, by `close` or at the end of
    a `with` block, cancels: what was said until then is the answer. One that is simply dropped ends
    as well, without an answer.

    Args:
        pieces: makes them, and returns the answer.
        cancel: ends the answer early.
        on_answer: called once with it, in the thread that took the last piece.
    """

    def __init__(
        self,
        pieces: Generator[str, None, Answer],
        cancel: Callable[[], None],
        on_answer: Callable[[Answer], None] | None = None,
    ) -> None:
        self._pieces, self._cancel, self._on_answer = pieces, cancel, on_answer
        self._lock = threading.RLock()
        self._begun = self._running = False
        self.answer: Answer | None = None

    def __next__(self) -> str:
        """The next piece: whole characters."""
        with self._lock:
            self._begun = self._running = True
            try:
                return next(self._pieces)
            except StopIteration as end:
                answer = cast("Answer | None", end.value)
                if answer is not None:
                    self.answer = answer
                    if self._on_answer is not None:
                        self._on_answer(answer)
                raise StopIteration from None
            finally:
                self._running = False

    def cancel(self) -> None:
        """Ends the answer; from any thread, and at once back.

        It takes effect before the next token; while a picture is encoded or a prompt is run, after
        the operator of the graph that runs; while waiting for other answers, at once. The pieces
        end, and `answer` has what was said until then.
        """
        self._cancel()

    def close(self) -> None:
        """Cancels, and waits until the answer has ended: a step at most."""
        self._cancel()
        with self._lock:
            if self._running:  # called by `on_progress`: it will end by itself
                return
            if not self._begun:
                self._pieces.close()
            for _ in self:
                pass

    def result(self) -> Answer:
        """The whole answer; takes the pieces that are left."""
        for _ in self:
            pass
        if self.answer is None:
            raise RuntimeError("this stream has no answer: it was closed or failed; ask again")
        return self.answer

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncStream(AsyncIterator[str]):
    """Pieces of an answer for an asyncio event loop, which they never block.

    The answer is made in a thread of its own, which begins when the first piece is asked for and
    does not wait for the others to be taken. Leaving it early cancels: the end of an `async with`
    block, a cancelled task, or dropping it. `on_progress` is called in that thread.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._queue: asyncio.Queue[Any] | None = None
        self._ended = False

    @property
    def answer(self) -> Answer | None:
        """The whole answer, once the pieces have ended."""
        return self._stream.answer if self._ended else None

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> str:
        """The next piece: whole characters."""
        if self._ended:
            raise StopAsyncIteration
        if self._queue is None:
            self._queue = asyncio.Queue()
            _make_aside(self._stream, partial(_put, asyncio.get_running_loop(), self._queue))
        try:
            said = await self._queue.get()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if isinstance(said, str):
            return said
        self._ended = True
        if isinstance(said, BaseException):
            raise said
        raise StopAsyncIteration

    def cancel(self) -> None:
        """As `Stream.cancel`."""
        self._stream.cancel()

    async def aclose(self) -> None:
        """As `Stream.close`: cancels, and waits until the answer has ended."""
        self.cancel()
        if self._queue is None:
            self._ended = True
        async for _ in self:
            pass

    async def result(self) -> Answer:
        """The whole answer; takes the pieces that are left. A cancelled task cancels it."""
        async for _ in self:
            pass
        return self._stream.result()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._ended:
            self._stream.cancel()


def interruptible(stream: Stream) -> Iterator[str]:
    """The pieces, made in a thread of their own, so that Ctrl-C is heard while one is made.

    Handlers of signals run in the main thread, and not before the graph it runs is done. Leaving
    early, by an exception as well, cancels and waits.
    """
    queue = SimpleQueue[Any]()
    maker = _make_aside(stream, lambda said: queue.put(said) is None)
    try:
        while (said := _heard(queue)) is not None:
            if isinstance(said, BaseException):
                raise said
            yield said
    finally:
        stream.cancel()
        maker.join()


def _heard(queue: SimpleQueue[Any]) -> Any:
    while True:
        with suppress(Empty):
            return queue.get(timeout=LISTEN)


def _make_aside(stream: Stream, put: Callable[[Any], bool]) -> threading.Thread:
    """Puts pieces, from a thread, then None, or what went wrong; `put` says if anyone listens."""

    def make() -> None:
        last: BaseException | None = None
        try:
            for piece in stream:
                if not put(piece):
                    stream.close()
        except BaseException as error:  # noqa: BLE001  it is raised where pieces are asked for
            last = error
        put(last)

    # Not a daemon: a thread that computes must not outlive the interpreter.
    thread = threading.Thread(target=make, name="vlrt-answer")
    thread.start()
    return thread


def _put(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Any], said: Any) -> bool:
    try:
        loop.call_soon_threadsafe(queue.put_nowait, said)
    except RuntimeError:  # the loop is closed: nobody is left to be told
        return False
    return True
