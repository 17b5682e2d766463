"""Draws what an answer points at onto the picture, with Pillow alone."""

from __future__ import annotations

import bisect
import colorsys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from vlrt_runtime.entities import Entity

__all__ = ["annotate"]

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]
Area = tuple[float, float, float, float]

GOLDEN = 0.618034  # of a turn: hues of any number of entities keep apart
FONT_SIZES = 11, 96
LINES_TO_HEIGHT = 28  # lines of text that the shorter side of the picture would hold
LEAST_LABELS = 4  # above one another, that a picture must have room for
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def annotate(image: Image.Image, entities: Iterable[Entity]) -> Image.Image:
    """A copy of the picture with every entity's boxes and name, each entity in its own colour.

    Boxes are cut at the picture's edge, and long names shortened. Entities are numbered where there
    is no name, or one that Pillow's own font cannot write. Pictures too small for text get none.
    """
    drawn = image.convert("RGB")
    canvas = ImageDraw.Draw(drawn)
    smallest, largest = FONT_SIZES
    size = min(largest, max(smallest, min(drawn.size) // LINES_TO_HEIGHT))
    font, width = ImageFont.load_default(size), max(2, size // 7)
    labels: list[tuple[Area, str, Colour]] = []
    for number, entity in enumerate(entities):
        colour = _colour(number)
        for shape in _shapes(entity, drawn.size):
            # On a dark rim, so that the line shows on a ground of its own colour.
            canvas.line([*shape, *shape[:2]], fill=BLACK, width=width + 2, joint="curve")
            canvas.line([*shape, *shape[:2]], fill=colour, width=width, joint="curve")
            left, top = min(x for x, _ in shape), min(y for _, y in shape)
            room = max(max(x for x, _ in shape) - left, drawn.width / 2)
            text = _shortened(canvas, _name(entity) or str(number + 1), font, room)
            area = _label_area(canvas, text, font, (left, top), drawn.size, [a for a, *_ in labels])
            if area[3] - area[1] <= drawn.height / LEAST_LABELS:
                labels.append((area, text, colour))
    for area, text, colour in labels:  # above all lines
        canvas.rectangle(area, fill=colour)
        light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
        centre = (area[0] + area[2]) / 2, (area[1] + area[3]) / 2
        canvas.text(centre, text, fill=BLACK if light > 140 else WHITE, font=font, anchor="mm")
    return drawn


def _name(entity: Entity) -> str:
    """The name in letters that the font has, accents left out; empty where that is not possible."""
    if entity.span[1] <= entity.span[0]:
        return ""
    letters = unicodedata.normalize("NFKD", " ".join(entity.name.split()))
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return plain if plain.isascii() and plain.isprintable() else ""


def _colour(number: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.9, 1.0 if number % 2 else 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def _shapes(entity: Entity, size: tuple[int, int]) -> list[list[tuple[float, float]]]:
    """Corners in pixels, within the picture: the quads where there are some, else the boxes."""
    shapes: list[Sequence[tuple[float, float]]] = [
        [(left, top), (right, top), (right, bottom), (left, bottom)]
        for left, top, right, bottom in entity.boxes
    ]
    width, height = size
    return [
        [(_within(x * width, width), _within(y * height, height)) for x, y in shape]
        for shape in entity.quads or shapes
    ]


def _within(value: float, size: int) -> float:
    return min(max(value, 0), size - 1)


def _shortened(canvas: ImageDraw.ImageDraw, text: str, font: Font, width: float) -> str:
    """The text, cut so that it and its margins fit a width."""
    room = width - 2 * _margin(font)
    text = text[: max(0, int(room))]  # no letter is narrower than a pixel
    if canvas.textlength(text, font=font) <= room:
        return text
    fits = bisect.bisect_right(
        range(len(text)), room, key=lambda n: canvas.textlength(text[:n] + "...", font=font)
    )
    return text[: fits - 1].rstrip() + "..." if fits > 1 else ""


def _margin(font: Font) -> int:
    return max(2, round(font.getbbox("x")[3] / 4))


def _label_area(
    canvas: ImageDraw.ImageDraw,
    text: str,
    font: Font,
    corner: tuple[float, float],
    size: tuple[int, int],
    taken: Sequence[Area],
) -> Area:
    """Where a label goes: above the corner, else below it, moved down past labels in its way."""
    margin = _margin(font)
    bottom = canvas.textbbox((0, 0), "Ag|", font=font)[3]
    width, height = canvas.textlength(text, font=font) + 2 * margin, bottom + margin
    left = max(0.0, min(corner[0], size[0] - width))
    top = corner[1] - height if corner[1] >= height else corner[1]
    lowest = max(0.0, size[1] - height)
    for _ in taken:  # each can be in the way once
        blocking = [a for a in taken if _overlap(a, (left, top, left + width, top + height))]
        if not blocking:
            break
        top = max(area[3] for area in blocking) + 1
    top = max(0.0, min(top, lowest))
    return left, top, left + width, top + height


def _overlap(one: Area, other: Area) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
