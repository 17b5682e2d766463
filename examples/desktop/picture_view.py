"""A picture as large as there is room, with the boxes of an answer."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QPointF, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QImage, QPainter, QPaintEvent, QPalette, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QWidget

from vlrt_runtime.entities import Entity

__all__ = ["PictureView"]

GOLDEN = 0.618034  # of a turn: hues of any number of boxes keep apart


class PictureView(QWidget):
    """Shows a picture; `hint` stands there while there is none."""

    def __init__(self, hint: str) -> None:
        super().__init__()
        self._hint = hint
        self._image = QImage()
        self._entities: Sequence[Entity] = ()
        self.setAccessibleName("Picture")
        self.setMinimumSize(160, 120)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def sizeHint(self) -> QSize:  # noqa: N802  Qt's names
        """Room that a picture would like."""
        return QSize(560, 420)

    def show_picture(self, image: QImage) -> None:
        """Another picture, without boxes."""
        self._image, self._entities = image, ()
        self.update()

    def show_entities(self, entities: Sequence[Entity]) -> None:
        """Boxes on the picture, in the place of those before."""
        self._entities = entities
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """The picture, and boxes in whole pixels of the screen."""
        painter = QPainter(self)
        painter.setRenderHints(
            QPainter.RenderHint.Antialiasing | QPainter.RenderHint.SmoothPixmapTransform
        )
        if self._image.isNull():
            painter.setPen(self.palette().color(QPalette.ColorRole.PlaceholderText))
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, self._hint)
            return
        area = self.picture_area()
        painter.drawImage(area, self._image)
        for number, entity in enumerate(self._entities):
            self._draw(painter, area, entity, QColor.fromHsvF(number * GOLDEN % 1, 0.9, 0.95))

    def picture_area(self) -> QRect:
        """Where the picture is, in pixels of this widget."""
        size = self._image.size().scaled(self.size(), Qt.AspectRatioMode.KeepAspectRatio)
        area = QRect(0, 0, size.width(), size.height())
        area.moveCenter(self.rect().center())
        return area

    def _draw(self, painter: QPainter, area: QRect, entity: Entity, colour: QColor) -> None:
        shapes: Sequence[Sequence[tuple[float, float]]] = entity.quads or [
            [(left, top), (right, top), (right, bottom), (left, bottom)]
            for left, top, right, bottom in entity.boxes
        ]
        for shape in shapes:
            corners = [
                QPointF(area.x() + x * area.width(), area.y() + y * area.height()) for x, y in shape
            ]
            for pen in (QPen(Qt.GlobalColor.black, 5), QPen(colour, 3)):  # seen on any ground
                painter.setPen(pen)
                painter.drawPolygon(QPolygonF(corners))
            if entity.name:
                self._label(
                    painter, entity.name, min(corners, key=lambda p: (p.y(), p.x())), colour
                )

    def _label(self, painter: QPainter, text: str, corner: QPointF, colour: QColor) -> None:
        metrics = painter.fontMetrics()
        text = metrics.elidedText(text, Qt.TextElideMode.ElideRight, self.width() // 2)
        width, height = metrics.horizontalAdvance(text) + 8, metrics.height() + 2
        left = max(0.0, min(corner.x(), self.width() - width))
        box = QRectF(left, max(0.0, corner.y() - height), width, height)
        painter.fillRect(box, colour)
        painter.setPen(Qt.GlobalColor.black)
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)
