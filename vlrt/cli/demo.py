"""`vlrt demo`."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path

import vlrt
from vlrt.cli.drawing import check_drawing, save_drawing
from vlrt.demo import PICTURE, QUESTIONS, demo_package
from vlrt_runtime.answer import Answer
from vlrt_runtime.entities import Entity
from vlrt_runtime.image import load_image
from vlrt_runtime.model import Model
from vlrt_runtime.package import user_folder

__all__ = ["run"]

FIRST_THING = re.compile(r"An? (.+?)(?:,| and|\.|$)")  # of "A red star, a blue circle and ..."


def run(args: argparse.Namespace) -> int:
    """Asks the model in the box three questions about a picture, and draws what it points at."""
    target = Path(args.output) if args.output else user_folder() / "demo.png"
    if args.output:
        check_drawing("-o", target)
    picture = load_image(args.image or PICTURE)
    model = vlrt.load(demo_package())
    print(f"picture: {args.image or PICTURE}, {picture.width} x {picture.height}")
    print(f"package: {model.package.folder}, opened in {model.load_ms:.0f} ms")
    entities: list[Entity] = []
    name = "thing"
    for question in QUESTIONS:
        asked = question.format(name=name)
        answer = _ask(model, asked, picture)
        if not entities and (found := FIRST_THING.match(answer.text)):
            name = found[1]
        # The box of "Where is ...?" has no name of its own: the whole answer stands for it.
        span = (0, len(answer.text))
        entities += [replace(entity, name=name, span=span) for entity in answer.entities]
    save_drawing(picture, entities, target)
    print(f"\nwith {len(entities)} box{'es' * (len(entities) != 1)} drawn: {target}")
    return 0


def _ask(model: Model, question: str, picture: object) -> Answer:
    print(f"\n> {question}")
    stream = model.stream(question, images=[picture], max_new_tokens=64)  # pyright: ignore[reportArgumentType]
    for piece in stream:
        print(piece, end="", flush=True)
    answer = stream.result()
    t = answer.timings
    speed = f", then {1e3 / t.tpot:.0f} tokens/s" if t.tpot else ""
    print(f"\n  [{t.ttft:.0f} ms to the first token{speed}]")
    sys.stdout.flush()
    return answer
