"""The example's window, off screen: it shows, answers, stops, tells of errors, and never waits."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vlrt
from support.pictures import picture
from vlrt.demo import PICTURE, demo_package

pytest.importorskip("PySide6", reason="needs PySide6-Essentials")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "desktop"))

from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QImage
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from window import Window


@pytest.fixture(scope="module")
def app() -> QApplication:
    return QApplication([])


@pytest.fixture
def open_window(app: QApplication) -> Iterator[Callable[[Path], Any]]:
    windows: list[Window] = []

    def open_one(package: Path) -> Window:
        windows.append(Window(package))
        windows[-1].show()
        return windows[-1]

    yield open_one
    for window in windows:
        window.close()


@pytest.fixture
def window(open_window) -> Any:
    """With the demo model, and its picture."""
    window = open_window(demo_package())
    wait_for(lambda: window.ask_button.isEnabled())
    window.open_picture(PICTURE)
    wait_for(lambda: window.statusBar().currentMessage() == "305 x 234")
    return window


def wait_for(condition: Callable[[], bool]) -> None:
    """Lets the window work until something is so."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        QApplication.processEvents()
        time.sleep(0.002)


def ask(window: Any, question: str) -> None:
    window.question.setText(question)
    QTest.keyClick(window.question, Qt.Key.Key_Return)


def idle(window: Any) -> bool:
    return window.ask_button.text() == "Ask"


def shown(window: Any) -> QImage:
    return window.view.grab().toImage()


def test_it_answers_as_vlrt_does_and_draws_boxes(window: Any):
    model = vlrt.load(demo_package())
    for question in ("Describe the picture.", "Where is the black star?"):
        before = shown(window)
        ask(window, question)
        assert window.ask_button.text() == "Stop"
        wait_for(lambda: idle(window))
        expected = model.generate(question, images=[PICTURE])
        assert window.answer.toPlainText() == expected.text
        assert "to the first token" in window.statusBar().currentMessage()
        assert (shown(window) != before) == bool(expected.entities)
    left, top, _, _ = expected.entities[0].boxes[0]
    area = window.view.picture_area()
    corner = QPoint(round(area.x() + left * area.width()), round(area.y() + top * area.height()))
    near = [shown(window).pixelColor(corner + QPoint(x, y)) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    assert any(colour.hue() in range(-1, 5) and colour.saturation() > 150 for colour in near)


@pytest.mark.parametrize("by", ["button", "escape", "picture"])
def test_an_answer_is_stopped(open_window, small_package: Path, by: str, tmp_path: Path):
    window = open_window(small_package)  # random weights: it does not end by itself soon
    wait_for(lambda: window.ask_button.isEnabled())
    window.worker.max_new_tokens = 100_000
    ask(window, "What?")
    wait_for(lambda: len(window.answer.toPlainText()) > 20)
    if by == "button":
        window.ask_button.click()
    elif by == "escape":
        QTest.keyClick(window, Qt.Key.Key_Escape)
    else:
        picture(40, 30).save(tmp_path / "a.png")
        window.open_picture(tmp_path / "a.png")
    wait_for(lambda: idle(window))
    wait_for(lambda: by != "picture" or "40 x 30" in window.statusBar().currentMessage())
    said = window.answer.toPlainText()
    window.worker.max_new_tokens = 4
    ask(window, "And this?")  # the model is as good as before
    wait_for(lambda: idle(window))
    assert 0 < len(window.answer.toPlainText()) != len(said)


def test_it_goes_on_while_the_package_is_opened(open_window, monkeypatch: pytest.MonkeyPatch):
    release, load, threads = threading.Event(), vlrt.load, list[threading.Thread]()

    def slow(*arguments: Any) -> vlrt.Model:
        threads.append(threading.current_thread())
        assert release.wait(30)
        return load(*arguments)

    monkeypatch.setattr(vlrt, "load", slow)
    window = open_window(demo_package())
    QTest.keyClicks(window.question, "What is")
    wait_for(lambda: bool(threads))
    assert threads != [threading.main_thread()]
    QTest.keyClicks(window.question, " this?\r")
    assert window.question.text() == "What is this?"
    assert not window.ask_button.isEnabled()
    release.set()
    wait_for(lambda: window.ask_button.isEnabled())


@pytest.mark.filterwarnings("ignore:.*QDragEnterEvent:DeprecationWarning")
@pytest.mark.parametrize("how", ["drop a file", "paste a file", "paste a picture"])
def test_pictures_come_by_drop_and_paste(window: Any, how: str, tmp_path: Path):
    picture(64, 48).save(tmp_path / "a b.png")
    data = QMimeData()
    if "file" in how:
        data.setUrls([QUrl.fromLocalFile(str(tmp_path / "a b.png"))])
    else:
        data.setImageData(QImage(str(tmp_path / "a b.png")))
    if "drop" in how:
        buttons = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        enter = QDragEnterEvent(QPoint(9, 9), Qt.DropAction.CopyAction, data, *buttons)
        QApplication.sendEvent(window, enter)
        assert enter.isAccepted()
        drop = QDropEvent(QPointF(9, 9), Qt.DropAction.CopyAction, data, *buttons)
        QApplication.sendEvent(window, drop)
    else:
        QApplication.clipboard().setMimeData(data)
        QTest.keyClick(window.question, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    wait_for(lambda: window.statusBar().currentMessage() == "64 x 48")
    assert window.question.text() == ""


def test_text_is_pasted_into_the_question(window: Any):
    QApplication.clipboard().setText("Where is it?")
    QTest.keyClick(window.question, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    assert window.question.text() == "Where is it?"


def test_errors_are_told_in_the_window_until_it_goes_well(window: Any, tmp_path: Path):
    window.open_picture(tmp_path / "missing.png")
    wait_for(lambda: window.error.isVisible())
    assert "missing.png" in window.error.text()
    ask(window, "How many things are there?")
    assert not window.error.isVisible()
    wait_for(lambda: idle(window))
    assert window.answer.toPlainText() == "4"
    ask(window, "Why? " * 3000)
    wait_for(lambda: window.error.isVisible())
    assert "the model's context is 2048" in window.error.text()
    assert idle(window)


def test_a_package_that_is_not_there_is_told(open_window, tmp_path: Path):
    window = open_window(tmp_path / "none")
    wait_for(lambda: window.error.isVisible())
    assert "no package there" in window.error.text()
    assert not window.ask_button.isEnabled()
    ask(window, "What?")  # does nothing, and does not fall over
    assert idle(window)


def test_it_closes_while_it_answers(open_window, small_package: Path):
    window = open_window(small_package)
    wait_for(lambda: window.ask_button.isEnabled())
    window.worker.max_new_tokens = 100_000
    ask(window, "What?")
    wait_for(lambda: bool(window.answer.toPlainText()))
    window.close()
    assert window.worker.isFinished()
