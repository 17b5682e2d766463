"""Boxes in Qwen2-VL's answers (https://arxiv.org/abs/2409.12191, section 2.2.1).

    <|object_ref_start|>the dog<|object_ref_end|><|box_start|>(88,501),(380,990)<|box_end|>

Corners are integers of [0, 1000) over the picture's width and height. The tags are special tokens:
they mark the text without being part of it. Whatever is malformed is left out, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from vlrt_runtime.entities import Box, Entity, Quad

__all__ = ["read_boxes"]

SCALE = 1000
TAG = re.compile(r"<\|(object_ref|box|quad)_(start|end)\|>")
POINT = re.compile(r"\(\s*(\d{1,9}(?:\.\d{1,9})?)\s*,\s*(\d{1,9}(?:\.\d{1,9})?)\s*\)")
CORNERS = {"box": 2, "quad": 4}


def read_boxes(raw: str, special: Sequence[str]) -> list[Entity]:
    """The entities of an answer.

    Args:
        raw: the answer with its special tokens.
        special: all special tokens; spans are those of the text without them.
    """
    hidden = re.compile("|".join(map(re.escape, special)) or "(?!)")
    name, span = "", None
    entities: list[Entity] = []
    for kind, start, end in _tagged(raw):
        # No special token is within, so lengths before and after are those of the text.
        at = len(hidden.sub("", raw[:start]))
        inside = raw[start:end]
        if kind == "object_ref":
            name = inside.strip()
            first = at + len(inside) - len(inside.lstrip())
            span = (first, first + len(name))
            continue
        boxes, quads = _shapes(inside, CORNERS[kind])
        if not boxes:
            continue
        place = span or (at, at)
        if span and entities and entities[-1].span == span:  # another box of the same name
            before = entities.pop()
            boxes, quads = (*before.boxes, *boxes), (*before.quads, *quads)
        entities.append(Entity(name, place, tuple(boxes), tuple(quads)))
    return entities


def _tagged(raw: str) -> Iterator[tuple[str, int, int]]:
    """Kind, start and end of what stands between a tag and its end tag, none between them."""
    opened = None
    for match in TAG.finditer(raw):
        kind, side = match[1], match[2]
        if side == "end" and opened is not None and opened[0] == kind:
            yield kind, opened[1], match.start()
        opened = (kind, match.end()) if side == "start" else None


def _shapes(text: str, corners: int) -> tuple[list[Box], list[Quad]]:
    """Upright boxes around every so many points; the points themselves where there are four."""
    points = [
        (min(float(x) / SCALE, 1.0), min(float(y) / SCALE, 1.0)) for x, y in POINT.findall(text)
    ]
    whole = len(points) // corners * corners
    shapes = [tuple(points[i : i + corners]) for i in range(0, whole, corners)]
    boxes = [_around(shape) for shape in shapes]
    return boxes, shapes if corners > 2 else []


def _around(points: Sequence[tuple[float, float]]) -> Box:
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)
