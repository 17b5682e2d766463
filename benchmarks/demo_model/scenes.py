"""Seeded pictures for the demo model: one to four large coloured things on a quiet background.

`scene(seed, split)` gives a picture, what is in it and every question with one right answer.
The same arguments give the same scene on every machine. numpy and Pillow only; no torch.

Splits: "train"; "seen" (held out, only combinations of colour and kind that training has) and
"unseen" (held out, everything in the picture is one of `NEVER_TRAINED`).
"""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.demo_model.questions import QA, questions
from benchmarks.demo_model.shapes import COLOURS, GLYPH_ASPECT, KINDS, SHAPES, Box, draw

NEVER_TRAINED = frozenset({
    ("red", "star"), ("blue", "triangle"), ("purple", "circle"), ("green", "square"),
    ("yellow", "7"), ("black", "4"), ("blue", "A"), ("green", "T"),
})  # fmt: skip
TOKEN = 28  # pixels a side of one image token: 14-pixel patches merged two by two
GRIDS = tuple(
    (gw, gh)
    for gw in range(4, 10)
    for gh in range(4, 10)
    if gw * gh <= 49 and max(gw, gh) <= 2 * min(gw, gh)
)  # (width, height) in tokens of the pictures as the model sees them
_SPLITS = {"train": 0, "seen": 1, "unseen": 2}
_SUPERSAMPLE = 2
# In pixels as laid out:
_MIN_SIDE = 40  # a shape's side; a digit or letter is a little higher and narrower
_GAP = 4  # air between things
_COLUMN_GAP = 10  # between their middles from left to right, so that a listing has one order


@dataclass(frozen=True)
class Thing:
    """One thing in a picture. `box` is (x0, y0, x1, y1) in pixels of the picture."""

    colour: str
    kind: str
    box: Box


@dataclass(frozen=True)
class Scene:
    """A picture, its things from left to right, and the questions it can answer."""

    picture: Image.Image
    things: tuple[Thing, ...]
    qa: tuple[QA, ...]


def scene(
    seed: int, split: str = "train", *, grid: tuple[int, int] | None = None, most: int = 4
) -> Scene:
    """Make one scene.

    `grid` is the size at which the scene is laid out, in image tokens (width, height). Half of the
    pictures have exactly this size; the others are up to 1.6 times larger and a little off in
    ratio, so that they have to be resized (training brings them to `grid`, so that a batch shares
    one size). `most` is the largest number of things.
    """
    rng = random.Random(seed * len(_SPLITS) + _SPLITS[split])
    gw, gh = grid or rng.choice(GRIDS)
    target = (gw * TOKEN, gh * TOKEN)
    size = target if rng.random() < 0.5 else _odd_size(rng, target)
    scale = (size[0] / target[0], size[1] / target[1])
    placed = _place(rng, target, rng.randint(1, most), split)
    things = tuple(
        Thing(c, k, tuple(v * scale[i % 2] for i, v in enumerate(box))) for c, k, box in placed
    )
    picture = _render(rng, size, things)
    return Scene(picture, things, questions(things, size, rng))


def _odd_size(rng: random.Random, target: tuple[int, int]) -> tuple[int, int]:
    """A size near a multiple of `target`: up to 1.6 times larger, sides off by up to 10."""
    zoom = rng.uniform(1.0, 1.6)
    return tuple(round(zoom * (side + rng.randint(-10, 10))) for side in target)


def _place(
    rng: random.Random, size: tuple[int, int], count: int, split: str
) -> list[tuple[str, str, Box]]:
    """(colour, kind, box) of things that do not touch, from left to right with distinct middles."""
    width, height = size
    # Few kinds and colours in half of the pictures, or counting would nearly always answer one.
    few = rng.random() < 0.5
    shapes_only = rng.random() < 0.3
    kinds = list(SHAPES if shapes_only else KINDS)
    kinds = rng.sample(kinds, 2) if few else kinds
    colours = rng.sample(list(COLOURS), 2) if few else list(COLOURS)
    placed: list[tuple[str, str, Box]] = []
    for _ in range(count):
        for _ in range(40):
            # Shapes are four kinds of twenty-four, and asked about most: draw them more often.
            pool = [k for k in kinds if k in SHAPES] if rng.random() < 0.35 else kinds
            colour, kind = rng.choice(colours), rng.choice(pool or kinds)
            if split == "unseen":
                colour, kind = rng.choice(sorted(NEVER_TRAINED))
            elif (colour, kind) in NEVER_TRAINED:
                continue
            box = _box(rng, kind, width, height, count)
            if all(_clear(box, other) for _, _, other in placed):
                placed.append((colour, kind, box))
                break
    return sorted(placed, key=lambda thing: thing[2][0] + thing[2][2])


def _box(rng: random.Random, kind: str, width: int, height: int, count: int) -> Box:
    largest = min(width, height) * (0.65, 0.55, 0.45, 0.38)[count - 1]
    h = rng.uniform(_MIN_SIDE, max(largest, _MIN_SIDE + 8))
    w = h
    if kind not in SHAPES:
        h = max(h, _MIN_SIDE / GLYPH_ASPECT * 0.85)
        w = h * GLYPH_ASPECT
    x, y = rng.uniform(2, width - w - 2), rng.uniform(2, height - h - 2)
    return (x, y, x + w, y + h)


def _clear(a: Box, b: Box) -> bool:
    apart = a[0] > b[2] + _GAP or b[0] > a[2] + _GAP or a[1] > b[3] + _GAP or b[1] > a[3] + _GAP
    return apart and abs(a[0] + a[2] - b[0] - b[2]) >= 2 * _COLUMN_GAP


def _render(rng: random.Random, size: tuple[int, int], things: tuple[Thing, ...]) -> Image.Image:
    big = (size[0] * _SUPERSAMPLE, size[1] * _SUPERSAMPLE)
    canvas = Image.fromarray(_background(rng, size)).resize(big, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(canvas)
    for thing in things:
        shade = rng.randint(-14, 14)
        fill = tuple(
            min(255, max(0, v + shade + rng.randint(-8, 8))) for v in COLOURS[thing.colour]
        )
        # Pillow paints the pixel at a box's far corner too, hence the -1.
        x0, y0, x1, y1 = (v * _SUPERSAMPLE for v in thing.box)
        draw(pen, thing.kind, (x0, y0, x1 - 1, y1 - 1), fill)
    return canvas.reduce(_SUPERSAMPLE)


def _background(rng: random.Random, size: tuple[int, int]) -> np.ndarray:
    """Light, nearly grey: plain, or with a slope, soft stripes or grain. uint8 [H, W, 3]."""
    width, height = size
    light = rng.randint(185, 250)
    base = np.array([light + rng.randint(-10, 5) for _ in range(3)], np.float32)
    texture = rng.choice(("plain", "plain", "slope", "stripes", "grain"))
    x = np.arange(width, dtype=np.float32)[None] / width
    y = np.arange(height, dtype=np.float32)[:, None] / height
    if texture == "slope":
        wave = rng.uniform(-35, 35) * (x - 0.5) + rng.uniform(-35, 35) * (y - 0.5)
    elif texture == "stripes":
        wave = rng.uniform(2, 7) * np.sin(rng.uniform(10, 50) * x + rng.uniform(10, 50) * y)
    elif texture == "grain":
        noise = np.random.default_rng(rng.getrandbits(32))
        wave = noise.normal(0, rng.uniform(1, 5), (height, width)).astype(np.float32)
    else:
        wave = np.zeros((height, width), np.float32)
    return np.clip(base + wave[..., None], 0, 255).astype(np.uint8)
