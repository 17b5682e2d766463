"""What an answer points at: a name in its text, and where in the picture that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Box", "Entity", "PixelBox", "Quad", "placed"]

Box = tuple[float, float, float, float]  # left, top, right, bottom
PixelBox = tuple[int, int, int, int]
Quad = tuple[tuple[float, float], ...]  # four corners in turn


@dataclass(frozen=True)
class Entity:
    """Something that the answer names, with its boxes.

    Attributes:
        name: as the answer has it; empty for boxes without one.
        span: where the name stands in the answer's text: start, and end (exclusive).
        boxes: left, top, right, bottom as fractions of the picture's width and height.
        quads: the four corners of boxes that are not upright; `boxes` holds what encloses them.
        image: index of the picture; None where there are several and the answer does not say.
        pixel_boxes: `boxes` in whole pixels of the original picture; empty where `image` is None.
    """

    name: str
    span: tuple[int, int]
    boxes: tuple[Box, ...]
    quads: tuple[Quad, ...] = ()
    image: int | None = None
    pixel_boxes: tuple[PixelBox, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON; quads only where there are some."""
        found: dict[str, Any] = {
            "name": self.name,
            "span": self.span,
            "boxes": self.boxes,
            "image": self.image,
            "pixel_boxes": self.pixel_boxes,
        }
        return found | ({"quads": self.quads} if self.quads else {})


def placed(entities: Iterable[Entity], sizes: Sequence[tuple[int, int]]) -> tuple[Entity, ...]:
    """The entities with picture and pixels, for pictures of these sizes (width, height)."""
    if len(sizes) != 1:
        return tuple(entities)
    return tuple(
        replace(
            entity,
            image=0,
            pixel_boxes=tuple(_pixels(box, *sizes[0]) for box in entity.boxes),
        )
        for entity in entities
    )


def _pixels(box: Box, width: int, height: int) -> PixelBox:
    left, top, right, bottom = box
    return round(left * width), round(top * height), round(right * width), round(bottom * height)
