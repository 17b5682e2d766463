"""The things a demo picture can hold: four shapes, ten digits and ten capital letters, as outlines.

Digits and letters are strokes of our own, drawn on a unit square, so no font has to be found or
licensed and every glyph touches all four sides of its box: a box answer is exact by construction.
"""

import math

from PIL import ImageDraw

Point = tuple[float, float]
Box = tuple[float, float, float, float]

SHAPES = ("circle", "square", "triangle", "star")
DIGITS = tuple("0123456789")
LETTERS = tuple("ACEHLMPTUX")
KINDS = SHAPES + DIGITS + LETTERS
COLOURS = {
    "red": (214, 40, 40),
    "green": (40, 160, 70),
    "blue": (40, 85, 215),
    "yellow": (240, 200, 20),
    "purple": (145, 60, 180),
    "black": (25, 25, 25),
}
GLYPH_ASPECT = 0.75  # width of a digit or letter over its height
STROKE = 0.19  # stroke width over glyph height


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float) -> list[Point]:
    """Points of an ellipse's arc; degrees, clockwise on screen because y grows downwards."""
    steps = max(6, round(abs(end - start) / 10))
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


_SIX = [_arc(0.5, 0.68, 0.5, 0.32, 0, 360), _arc(0.9, 0.68, 0.9, 0.68, 180, 270)]
_STROKES: dict[str, list[list[Point]]] = {
    "0": [_arc(0.5, 0.5, 0.5, 0.5, 0, 360)],
    "1": [[(0.1, 0.25), (0.5, 0), (0.5, 1)], [(0, 1), (1, 1)]],
    "2": [[*_arc(0.5, 0.3, 0.5, 0.3, 190, 390), (0, 1), (1, 1)]],
    "3": [_arc(0.45, 0.25, 0.48, 0.25, 200, 450), _arc(0.45, 0.75, 0.55, 0.25, 270, 520)],
    "4": [[(0.75, 1), (0.75, 0), (0, 0.7), (1, 0.7)]],
    "5": [[(0.95, 0), (0.1, 0), (0.05, 0.45), *_arc(0.45, 0.68, 0.55, 0.32, 225, 510)]],
    "6": _SIX,
    "7": [[(0, 0), (1, 0), (0.35, 1)]],
    "8": [_arc(0.5, 0.25, 0.42, 0.25, 0, 360), _arc(0.5, 0.75, 0.5, 0.25, 0, 360)],
    "9": [[(1 - x, 1 - y) for x, y in stroke] for stroke in _SIX],
    "A": [[(0, 1), (0.5, 0), (1, 1)], [(0.18, 0.66), (0.82, 0.66)]],
    "C": [_arc(0.5, 0.5, 0.5, 0.5, -45, -315)],
    "E": [[(1, 0), (0, 0), (0, 1), (1, 1)], [(0, 0.5), (0.85, 0.5)]],
    "H": [[(0, 0), (0, 1)], [(1, 0), (1, 1)], [(0, 0.5), (1, 0.5)]],
    "L": [[(0, 0), (0, 1), (1, 1)]],
    "M": [[(0, 1), (0, 0), (0.5, 0.6), (1, 0), (1, 1)]],
    "P": [[(0, 1), (0, 0), (0.5, 0), *_arc(0.6, 0.28, 0.4, 0.28, 270, 450), (0, 0.56)]],
    "T": [[(0, 0), (1, 0)], [(0.5, 0), (0.5, 1)]],
    "U": [[(0, 0), *_arc(0.5, 0.62, 0.5, 0.38, 180, 0), (1, 0)]],
    "X": [[(0, 0), (1, 1)], [(1, 0), (0, 1)]],
}


def _unit(points: list[Point]) -> list[Point]:
    """Stretch points so that they touch all four sides of the unit square."""
    xs, ys = zip(*points, strict=True)
    w, h = max(xs) - min(xs), max(ys) - min(ys)
    return [((x - min(xs)) / w, (y - min(ys)) / h) for x, y in points]


def _normalised(strokes: list[list[Point]]) -> list[list[Point]]:
    flat = iter(_unit([point for stroke in strokes for point in stroke]))
    return [[next(flat) for _ in stroke] for stroke in strokes]


_STROKES = {kind: _normalised(strokes) for kind, strokes in _STROKES.items()}
_POLYGONS = {
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
    "star": _unit(
        [
            (r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5))
            for i, r in enumerate([1, 0.42] * 5)
        ]
    ),
}


def draw(canvas: ImageDraw.ImageDraw, kind: str, box: Box, fill: tuple[int, int, int]) -> None:
    """Draw one thing so that its ink touches all four sides of `box` (canvas pixels)."""
    x0, y0, x1, y1 = box
    if kind == "circle":
        canvas.ellipse(box, fill=fill)
    elif kind in _POLYGONS:
        canvas.polygon(
            [(x0 + x * (x1 - x0), y0 + y * (y1 - y0)) for x, y in _POLYGONS[kind]], fill=fill
        )
    else:
        _draw_strokes(canvas, _STROKES[kind], box, fill)


def _draw_strokes(
    canvas: ImageDraw.ImageDraw, strokes: list[list[Point]], box: Box, fill: tuple[int, int, int]
) -> None:
    x0, y0, x1, y1 = box
    r = STROKE * (y1 - y0) / 2  # pen radius: the pen's middle stays this far inside the box
    for stroke in strokes:
        path = [(x0 + r + x * (x1 - x0 - 2 * r), y0 + r + y * (y1 - y0 - 2 * r)) for x, y in stroke]
        canvas.line(path, fill=fill, width=round(2 * r), joint="curve")
        for x, y in (path[0], path[-1]):
            canvas.ellipse((x - r, y - r, x + r, y + r), fill=fill)
