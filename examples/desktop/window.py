"""A window around a package: a picture, a question, the answer as it comes, and its boxes.

    python window.py [PACKAGE]    a folder or name; else the folder `package` beside this file
    pyinstaller --windowed --add-data FOLDER:package window.py

Whatever takes time is done by `Worker`: the window never waits.
"""

from __future__ import annotations

import sys
from pathlib import Path

from picture_view import PictureView
from PIL import Image
from PySide6.QtCore import QMimeData, QUrl, Signal
from PySide6.QtGui import (
    QCloseEvent,
    QDragEnterEvent,
    QDropEvent,
    QGuiApplication,
    QImage,
    QKeyEvent,
    QKeySequence,
    QShortcut,
    QTextCursor,
)
from PySide6.QtWidgets import (
    QApplication,
    QFileDialog,
    QGridLayout,
    QLabel,
    QLineEdit,
    QMainWindow,
    QPlainTextEdit,
    QPushButton,
    QSplitter,
    QWidget,
)
from worker import Worker

import vlrt
from vlrt_runtime.image import FORMATS

PACKAGE = Path(__file__).parent / "package"
PICTURES = " ".join(f"*.{name.lower()}" for name in (*FORMATS, "jpg", "tif"))
STAGES = {
    "preprocess": "reading the picture",
    "encode": "looking at the picture",
    "prefill": "reading the question",
    "decode": "answering",
}


class Question(QLineEdit):
    """A line of text; what is pasted and is a picture is told instead."""

    pasted = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802  Qt's names
        """Pictures and files are no text."""
        if event.matches(QKeySequence.StandardKey.Paste) and _picture_in(
            QGuiApplication.clipboard().mimeData()
        ):
            self.pasted.emit()
        else:
            super().keyPressEvent(event)


class Window(QMainWindow):
    """The window, and a worker for it."""

    def __init__(self, package: Path) -> None:
        super().__init__()
        self.setWindowTitle("vlrt")
        self.setAcceptDrops(True)
        self._picture: Image.Image | None = None
        self._ready = self._busy = False

        self.view = PictureView("Drop a picture here, paste or open one")
        self.answer = QPlainTextEdit(readOnly=True)
        self.answer.setAccessibleName("Answer")
        self.question = Question(placeholderText="Ask about the picture")
        self.question.setAccessibleName("Question")
        self.ask_button, self.open_button = QPushButton("Ask"), QPushButton("Open picture ...")
        self.error = QLabel(wordWrap=True, visible=False)
        self.error.setTextFormat(self.error.textFormat().PlainText)
        self.error.setStyleSheet("background: #b3261e; color: white; padding: 6px")
        self._lay_out()

        self.ask_button.clicked.connect(self._ask_or_stop)
        self.question.returnPressed.connect(self._ask)
        self.question.pasted.connect(self._paste)
        self.open_button.clicked.connect(self._choose)
        QShortcut(QKeySequence.StandardKey.Open, self, self._choose)
        QShortcut(QKeySequence.StandardKey.Paste, self, self._paste)
        QShortcut(QKeySequence("Escape"), self, self._stop)

        self.worker = worker = Worker()
        worker.opened.connect(self._opened)
        worker.pictured.connect(self._pictured)
        worker.progressed.connect(self._progressed)
        worker.said.connect(self._said)
        worker.answered.connect(self._answered)
        worker.failed.connect(self._failed)
        worker.start()
        worker.open_package(package)
        self.statusBar().showMessage(f"opening {package} ...")
        self._update()

    def open_picture(self, source: Path | QImage) -> None:
        """Shows a picture and asks about it from now on."""
        self.error.hide()
        self.worker.open_picture(source)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        """Gone at once; the thread ends with what it is at."""
        self.hide()
        self.worker.end()
        event.accept()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:  # noqa: N802
        """Files and pictures may be dropped."""
        if _picture_in(event.mimeData()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802
        """Opens what was dropped."""
        self._take(event.mimeData())

    def _lay_out(self) -> None:
        right = QWidget()
        grid = QGridLayout(right)
        grid.addWidget(self.answer, 0, 0, 1, 2)
        grid.addWidget(self.error, 1, 0, 1, 2)
        grid.addWidget(self.question, 2, 0, 1, 2)
        grid.addWidget(self.open_button, 3, 0)
        grid.addWidget(self.ask_button, 3, 1)
        sides = QSplitter()
        sides.addWidget(self.view)
        sides.addWidget(right)
        sides.setStretchFactor(0, 1)
        self.setCentralWidget(sides)
        self.resize(960, 540)
        self.question.setFocus()

    def _update(self) -> None:
        self.ask_button.setText("Stop" if self._busy else "Ask")
        self.ask_button.setEnabled(self._ready)

    def _ask_or_stop(self) -> None:
        (self._stop if self._busy else self._ask)()

    def _ask(self) -> None:
        question = self.question.text().strip()
        if not question or not self._ready or self._busy:
            return
        self.error.hide()
        self.answer.clear()
        self.view.show_entities(())
        self.question.selectAll()
        self._busy = True
        self.worker.ask(question, self._picture)
        self._update()

    def _stop(self) -> None:
        self.worker.stop()

    def _choose(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Picture", "", f"Pictures ({PICTURES})")
        if path:
            self.open_picture(Path(path))

    def _paste(self) -> None:
        self._take(QGuiApplication.clipboard().mimeData())

    def _take(self, data: QMimeData) -> None:
        found = _picture_in(data)
        if found is not None:
            self.open_picture(found)

    def _opened(self, name: str) -> None:
        self._ready = True
        self.statusBar().showMessage(name)
        self._update()

    def _pictured(self, picture: Image.Image, shown: QImage) -> None:
        self._picture = picture
        self.view.show_picture(shown)
        self.statusBar().showMessage(f"{picture.width} x {picture.height}")

    def _progressed(self, stage: str, done: int, total: int) -> None:
        if stage in STAGES:
            part = f" {done} of {total}" if total > 1 and stage != "decode" else ""
            self.statusBar().showMessage(f"{STAGES[stage]}{part} ...")

    def _said(self, piece: str) -> None:
        self.answer.moveCursor(QTextCursor.MoveOperation.End)
        self.answer.insertPlainText(piece)

    def _answered(self, answer: vlrt.Answer) -> None:
        self._busy = False
        self.view.show_entities([entity for entity in answer.entities if entity.image == 0])
        t = answer.timings
        speed = f", then {1e3 / t.tpot:.0f} tokens/s" if t.tpot else ""
        ends = {"cancelled": "stopped", "length": "cut: it is long"}
        told = [ends[answer.finish_reason]] if answer.finish_reason in ends else []
        told += [f"{t.ttft / 1e3:.2f} s to the first token{speed}"] if t.ttft else []
        self.statusBar().showMessage("; ".join(told))
        self._update()

    def _failed(self, why: str) -> None:
        self._busy = False
        self.error.setText(why)
        self.error.show()
        self.statusBar().clearMessage()
        self._update()


def _picture_in(data: QMimeData) -> Path | QImage | None:
    """The picture, or the first file, that was dropped or pasted."""
    files = [url.toLocalFile() for url in data.urls() if QUrl.isLocalFile(url)]
    if files:
        return Path(files[0])
    image = QImage(data.imageData()) if data.hasImage() else QImage()
    return None if image.isNull() else image


def main() -> int:
    """Until the window is closed."""
    app = QApplication(sys.argv)
    window = Window(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
    window.show()
    return app.exec()


if __name__ == "__main__":
    sys.exit(main())
