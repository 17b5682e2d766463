"""What takes time, in a thread of its own: opening the package and pictures, and answering."""

from __future__ import annotations

import queue
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image
from PySide6.QtCore import QThread, Signal
from PySide6.QtGui import QImage

import vlrt
from vlrt_runtime.image import load_image

__all__ = ["Worker"]


class Worker(QThread):
    """Does one thing after the other, and tells by signals, which Qt brings to the window's thread.

    Its methods come back at once, and are for the window's thread.

    Attributes:
        max_new_tokens: of an answer.
    """

    opened = Signal(str)  # the package's name: it can be asked
    pictured = Signal(object, QImage)  # a picture, for the model and for the window
    progressed = Signal(str, int, int)  # stage, done, total
    said = Signal(str)  # a piece of the answer
    answered = Signal(object)  # vlrt.Answer, whole or as far as it went
    failed = Signal(str)  # a line about what went wrong

    def __init__(self) -> None:
        super().__init__()
        self.max_new_tokens = 512
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._model: vlrt.Model | None = None
        self._stream: vlrt.Stream | None = None

    def open_package(self, package: Path) -> None:
        """Opens a package, in the place of the one before."""
        self.stop()
        self._jobs.put(partial(self._open_package, package))

    def open_picture(self, source: Path | QImage) -> None:
        """Reads a file, or takes what the clipboard had; an answer about another one is stopped."""
        self.stop()
        self._jobs.put(partial(self._open_picture, source))

    def ask(self, question: str, picture: Image.Image | None) -> None:
        """Answers; once a package has been opened."""
        assert self._model is not None
        pictures = [] if picture is None else [picture]
        # Nothing is computed before the first piece is asked for; but it can be stopped from now.
        self._stream = self._model.stream(
            question,
            images=pictures,
            max_new_tokens=self.max_new_tokens,
            on_progress=self._progress,
        )
        self._jobs.put(partial(self._answer, self._stream))

    def stop(self) -> None:
        """Ends the answer within a token, or an operator of the encoder."""
        if self._stream is not None:
            self._stream.cancel()

    def end(self) -> None:
        """Stops, and waits for the thread: before the program ends."""
        self.stop()
        self._jobs.put(None)
        self.wait()

    def run(self) -> None:
        """In the thread: jobs until there is None."""
        while (job := self._jobs.get()) is not None:
            self._do(job)

    def _do(self, job: Callable[[], None]) -> None:
        try:
            job()
        except vlrt.VlrtError as error:
            self.failed.emit(str(error))
        except Exception as error:  # noqa: BLE001  the window tells; it does not fall over
            self.failed.emit(f"{type(error).__name__}: {error}")

    def _open_package(self, package: Path) -> None:
        self._model = vlrt.load(package)
        self.opened.emit(self._model.manifest.name)

    def _open_picture(self, source: Path | QImage) -> None:
        picture = load_image(_as_pil(source) if isinstance(source, QImage) else source)
        shown = QImage(
            picture.tobytes(), *picture.size, 3 * picture.width, QImage.Format.Format_RGB888
        )
        self.pictured.emit(picture, shown.copy())  # the first one only borrows its bytes

    def _answer(self, stream: vlrt.Stream) -> None:
        for piece in stream:
            self.said.emit(piece)
        self.answered.emit(stream.result())

    def _progress(self, progress: vlrt.Progress) -> None:
        self.progressed.emit(progress.stage, progress.done, progress.total)


def _as_pil(image: QImage) -> Image.Image:
    image = image.convertToFormat(QImage.Format.Format_RGBA8888)
    size = image.width(), image.height()
    return Image.frombytes("RGBA", size, image.constBits(), "raw", "RGBA", image.bytesPerLine())
