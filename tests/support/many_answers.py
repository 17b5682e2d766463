"""Prints, as JSON, how much memory is private after each hundred of 500 answers of many kinds.

In a process of its own: what other tests have left lying about would drown a leak.
"""

from __future__ import annotations

import gc
import json

import vlrt
from support.pictures import gradient
from vlrt.demo import demo_package
from vlrt_runtime.memory import private
from vlrt_runtime.options import Progress

SCHEMA = {"enum": ["a red star", "a blue circle"]}


def main() -> None:
    """Answers, and measures."""
    model = vlrt.load(demo_package(), threads=1, image_cache_mb=2, prefix_cache_mb=8)
    images = [gradient(width, 224) for width in range(112, 392, 28)]
    chat = model.chat(max_new_tokens=8)

    def work(number: int) -> None:
        images_now = [images[number % len(images)]]
        kind = number % 5
        if kind == 0:
            with model.stream("Describe the picture.", images=images_now) as stream:
                next(stream)
        elif kind == 1:
            sampling = vlrt.Sampling(1.0, seed=number)
            model.generate("How many?", max_new_tokens=8, sampling=sampling, stop=["."])
        elif kind == 2:
            model.generate("What is it?", images=images_now, max_new_tokens=24, schema=SCHEMA)
        elif kind == 3:
            chat.ask("Where is it?", images=images_now[: len(chat.turns) == 0])
            if len(chat.turns) == 4:
                chat.reset()
        else:
            told: list[Progress] = []
            model.generate("What?", images=images_now, max_new_tokens=8, on_progress=told.append)

    sizes: dict[int, int] = {}
    for number in range(1, 501):
        work(number)
        if number % 100 == 0:
            gc.collect()
            sizes[number] = private() or 0
    print(json.dumps(sizes))


if __name__ == "__main__":
    main()
