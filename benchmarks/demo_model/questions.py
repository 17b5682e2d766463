"""Questions about a scene, each with one right answer by rule.

Rules that keep answers unique: a thing is asked for by a name that fits exactly one thing (or
none: then the answer says so); a relation is asked where at most one thing lies on that side and
every other thing is clearly on the other; a description goes from left to right by the things'
middles, which scenes keep apart. Box coordinates are rounded to multiples of 10 (of 1000): one
token each, and at most 0.5 % of the picture's side away from the truth.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.demo_model.shapes import COLOURS, DIGITS, KINDS, LETTERS, SHAPES, Box

if TYPE_CHECKING:
    from benchmarks.demo_model.scenes import Thing

TASKS = ("describe", "count", "colour", "shape", "read", "relation", "where", "absent")
BOX_STEP = 10
DESCRIBE = ("Describe the picture.", "Describe this picture.", "What is in the picture?")
_CLEARLY = (
    0.07  # of the picture's side: the least distance between middles that counts as "left of"
)
_SIDES = (("left of", 0, -1), ("right of", 0, 1), ("above", 1, -1), ("below", 1, 1))


@dataclass(frozen=True)
class QA:
    """A question and its answer. `box` is (x1, y1, x2, y2) in thousandths, for task "where"."""

    task: str
    question: str
    answer: str
    box: Box | None = None


def label(kind: str) -> str:
    """How a kind is named in text: 'star', 'digit 7', 'letter A'."""
    return kind if kind in SHAPES else f"digit {kind}" if kind in DIGITS else f"letter {kind}"


def name(thing: "Thing") -> str:
    """'red star', 'green digit 7'."""
    return f"{thing.colour} {label(thing.kind)}"


def listing(things: Sequence["Thing"]) -> str:
    """Write 'A red star, a blue circle and a green digit 7.'."""
    parts = [f"a {name(t)}" for t in things]
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"A{text[1:]}."


def box_text(box: Box) -> str:
    """Qwen2-VL's box format."""
    x1, y1, x2, y2 = (int(v) for v in box)
    return f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"


def relative(box: Box, size: tuple[int, int]) -> Box:
    """Pixels -> thousandths of the picture, rounded to `BOX_STEP`, below 1000."""
    unit = 1000 / BOX_STEP
    return tuple(
        min(1000 - BOX_STEP, BOX_STEP * round(unit * v / size[i % 2])) for i, v in enumerate(box)
    )


def questions(
    things: Sequence["Thing"], size: tuple[int, int], rng: random.Random
) -> tuple[QA, ...]:
    """Every question the scene can answer, with a few about what is not there."""
    spelling = rng.choice(("colour", "colour", "color"))
    return (
        QA("describe", rng.choice(DESCRIBE), listing(things)),
        *_counting(things, rng),
        *_naming(things, spelling),
        *_relations(things, size),
        *_boxes(things, size),
        *_absences(things, rng, spelling),
    )


def _counting(things: Sequence["Thing"], rng: random.Random) -> list[QA]:
    kinds, colours = Counter(t.kind for t in things), Counter(t.colour for t in things)
    missing = rng.choice([s for s in SHAPES if s not in kinds] or list(SHAPES))
    asked = {k: kinds[k] for k in SHAPES if k in kinds} | {missing: kinds[missing]}
    out = [QA("count", "How many things are there?", str(len(things)))]
    out += [QA("count", f"How many {kind}s are there?", str(n)) for kind, n in asked.items()]
    out += [QA("count", f"How many {c} things are there?", str(n)) for c, n in colours.items()]
    for plural, group in (("digits", DIGITS), ("letters", LETTERS)):
        n = sum(kinds[k] for k in group)
        if n or rng.random() < 0.2:
            out.append(QA("count", f"How many {plural} are there?", str(n)))
    return out


def _naming(things: Sequence["Thing"], spelling: str) -> list[QA]:
    kinds, colours = Counter(t.kind for t in things), Counter(t.colour for t in things)
    out = []
    for thing in things:
        kind, colour = thing.kind, thing.colour
        if kinds[kind] == 1:
            out.append(QA("colour", f"What {spelling} is the {label(kind)}?", colour.capitalize()))
        if colours[colour] > 1:
            continue
        if kind in SHAPES:
            out.append(QA("shape", f"What shape is the {colour} thing?", kind.capitalize()))
        else:
            group = "digit" if kind in DIGITS else "letter"
            out.append(QA("read", f"Which {group} is {colour}?", kind))
    for group, members in (("digit", DIGITS), ("letter", LETTERS)):
        found = [t.kind for t in things if t.kind in members]
        if len(found) == 1:
            out.append(QA("read", f"Which {group} is in the picture?", found[0]))
    return out


def _relations(things: Sequence["Thing"], size: tuple[int, int]) -> list[QA]:
    names = Counter(name(t) for t in things)
    out = []
    for thing in things:
        others = [t for t in things if t is not thing]
        if names[name(thing)] > 1 or not others:
            continue
        for words, axis, sign in _SIDES:
            middle = thing.box[axis] + thing.box[axis + 2]
            ahead = [sign * (t.box[axis] + t.box[axis + 2] - middle) / 2 for t in others]
            found = [t for t, d in zip(others, ahead, strict=True) if d > 0]
            if len(found) > 1 or min(abs(d) for d in ahead) < _CLEARLY * size[axis]:
                continue
            answer = listing(found) if found else "Nothing."
            out.append(QA("relation", f"What is {words} the {name(thing)}?", answer))
    return out


def _boxes(things: Sequence["Thing"], size: tuple[int, int]) -> list[QA]:
    names, kinds = Counter(name(t) for t in things), Counter(t.kind for t in things)
    out = []
    for thing in things:
        box = relative(thing.box, size)
        asked = [name(thing)] * (names[name(thing)] == 1) + [label(thing.kind)] * (
            kinds[thing.kind] == 1
        )
        out += [QA("where", f"Where is the {words}?", box_text(box), box) for words in asked]
    return out


def _absences(things: Sequence["Thing"], rng: random.Random, spelling: str) -> list[QA]:
    """Three questions about what is not there; near misses (right kind, wrong colour) included."""
    kinds, colours = {t.kind for t in things}, {t.colour for t in things}
    kind = rng.choice([k for k in KINDS if k not in kinds])
    colour = rng.choice([c for c in COLOURS if c not in colours])
    group, members = rng.choice((("digit", DIGITS), ("letter", LETTERS)))
    out = [
        QA("absent", f"What {spelling} is the {label(kind)}?", f"There is no {label(kind)}."),
        QA("absent", f"What shape is the {colour} thing?", f"There is no {colour} thing."),
    ]
    if rng.random() < 0.5:
        present = label(rng.choice(things).kind)
        out.append(_no("Where is", f"{colour} {present}"))
    else:
        out.append(_no("Where is", label(kind)))
    if not kinds & set(members):
        out.append(QA("absent", f"Which {group} is in the picture?", f"There is no {group}."))
    return out


def _no(ask: str, words: str) -> QA:
    return QA("absent", f"{ask} the {words}?", f"There is no {words}.")
