"""Answers, computed in threads while the event loop goes on: events come out as they happen."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from vlrt.serve.errors import stopping
from vlrt.serve.line import Line
from vlrt.serve.metrics import Metrics
from vlrt.serve.options import ServeOptions
from vlrt.serve.pictures import decoded
from vlrt.serve.prompt import Question
from vlrt.serve.wire import Stage
from vlrt_runtime.answer import Answer
from vlrt_runtime.model import Model
from vlrt_runtime.options import Keywords, Progress
from vlrt_runtime.stream import Stream

__all__ = ["Done", "Engine", "Event"]


@dataclass(frozen=True)
class Done:
    """The whole answer, and for how many milliseconds the request waited for its turn."""

    answer: Answer
    queue_ms: float


Event = str | Stage | Done  # a piece of the answer, what is being done, the end


@dataclass(eq=False)
class _Job:
    """An answer in a thread of its own. `emit` is called in the thread, the rest in the loop."""

    ask: Callable[[], Stream]
    emit: Callable[[str | Stage | Answer | Exception], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    stream: Stream | None = None

    def run(self) -> None:
        """Ends with an answer or an exception."""
        try:
            self.stream = stream = self.ask()
            if self.cancelled.is_set():  # it was, before there was anything to cancel
                stream.cancel()
            for piece in stream:
                self.emit(piece)
            self.emit(stream.result())
        except Exception as error:  # noqa: BLE001  whatever it is, the waiting client is told
            self.emit(error)

    def cancel(self) -> None:
        """From any thread; effective within a token, or an operator of a graph."""
        self.cancelled.set()
        if self.stream is not None:
            self.stream.cancel()


class Engine:
    """One model and the line before it.

    A turn lasts as long as its thread: a client that has gone frees it as soon as the model has
    noticed, and not sooner, so there are never more answers computed than `parallel`.
    """

    def __init__(self, model: Model, options: ServeOptions, metrics: Metrics) -> None:
        self.model, self.options, self.metrics = model, options, metrics
        self.line = Line(options.parallel, options.queue)
        self._jobs: set[_Job] = set()
        self.stopping = False
        metrics.watch(lambda: self.line.running, lambda: self.line.waiting)

    async def answer(self, asked: Question) -> AsyncGenerator[Event, None]:
        """Waits for a turn and answers; closing the generator, or cancelling it, ends the answer.

        Raises:
            ApiError: too many wait, or the server is stopping.
            VlrtError: the question cannot be answered.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[str | Stage | Answer | Exception | None] = asyncio.Queue()
        entered = time.perf_counter()

        def place(number: int, of: int) -> None:
            events.put_nowait(Stage("queued", number, of))

        entering = asyncio.ensure_future(self.line.enter(place))
        entering.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, Stage):
                    yield event
            await entering
        except BaseException:
            entering.cancel()
            await _settled(entering, self.line)
            raise
        waited = (time.perf_counter() - entered) * 1e3
        self.metrics.queue_seconds.observe(waited / 1e3)

        def emit(event: str | Stage | Answer | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is left to tell
                loop.call_soon_threadsafe(events.put_nowait, event)

        job = _Job(lambda: self._stream(asked, emit), emit)
        self._start(job, loop)
        try:
            while not isinstance(event := await events.get(), Answer):
                if isinstance(event, Exception):
                    raise event
                if event is not None:
                    yield event
            if event.finish_reason == "cancelled":  # not by the client, who would not be here
                raise stopping()
            self.metrics.answered(event)
            yield Done(event, waited)
        finally:
            job.cancel()

    def close(self) -> None:
        """No more questions; those who wait are sent away, answers that are under way go on."""
        self.stopping = True
        self.line.close()

    def cancel(self) -> None:
        """Ends the answers that are under way."""
        for job in self._jobs:
            job.cancel()

    def _stream(self, asked: Question, emit: Callable[[Stage], None]) -> Stream:
        pictures = decoded(asked.pictures, self.options.max_pixels)

        def told(progress: Progress) -> None:
            if progress.stage not in ("queued", "decode"):  # the line is ours, pieces tell of ids
                emit(Stage(progress.stage, progress.done, progress.total))

        options: Keywords = {**asked.options, "images": pictures, "on_progress": told}
        return self.model.stream(asked.messages, **options)

    def _start(self, job: _Job, loop: asyncio.AbstractEventLoop) -> None:
        began = time.perf_counter()

        def over() -> None:
            self._jobs.discard(job)
            self.line.leave(time.perf_counter() - began)

        def work() -> None:
            try:
                job.run()
            finally:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(over)

        self._jobs.add(job)
        try:
            # A daemon: a graph that runs for seconds does not keep a stopped server from ending.
            threading.Thread(target=work, name="vlrt-answer", daemon=True).start()
        except RuntimeError:  # the system has no more threads
            over()
            raise


async def _settled(entering: asyncio.Future[None], line: Line) -> None:
    """Waits for a cancelled entry; gives the turn back where it came nevertheless."""
    await asyncio.wait((entering,))
    if not entering.cancelled() and entering.exception() is None:
        line.leave()
