"""What prompt lookup (`vlrt run --speculate`) brings, and what it costs.

    python benchmarks/lookup.py qwen2-vl-2b-int4

First how the decoder's time grows with the ids of one run, and how far logits of several rows are
from those of single steps, in standard deviations of logits: what `lookup.MOST` and `lookup.MARGIN`
rest on. Then answers with and without, in turn, to a prompt that repeats and to one that does not.
Random weights are hardly ever sure of an id, and guess next to nothing; so at last the model is
made to say a list of JSON objects and a text that does not repeat: everything is computed, and the
logits of the next id of that text are then raised. Medians; one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import vlrt
from vlrt_runtime.backends.onnx_decoder import OnnxDecoder
from vlrt_runtime.model import Model

ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
ASKED = "What is there?"
PROMPTS = {
    "repeats": '{"name": "square", "colour": "red", "size": 3},\n' * 12,
    "does not": "The quick brown fox jumps over a lazy dog while seven wizards mix potions.",
}
SURE = 20  # standard deviations of logits between an id that is to be said and all others


def objects() -> str:
    """A list as a model writes it that is asked for what it sees: keys repeat, values do not."""
    drawn, lines = random.Random(0), list[str]()
    for _ in range(12):
        shape = drawn.choice(["square", "circle", "star", "letter", "digit"])
        colour = drawn.choice(["red", "blue", "green", "purple", "black"])
        lines.append(f'  {{"name": "{shape}", "colour": "{colour}", "x": {drawn.randrange(1000)}}}')
    return "[\n" + ",\n".join(lines) + "\n]"


TOLD = {
    "JSON": objects(),
    "prose": "Out of the window one could see the harbour, where two boats, both of them older "
    "than anybody in town, lay side by side under a thin grey rain that had begun at noon.",
}


def rows(model: Model, rounds: int) -> dict[int, dict[str, float]]:
    """By ids of a run: milliseconds, and the largest difference from single steps."""
    layout, _ = model.prepare(PROMPTS["repeats"], raw=True)
    decoder = model.decoder()
    decoder.reserve(2 * len(layout.token_ids) + max(ROWS))
    model.prefill(decoder, layout, model.splice(layout, []))
    start = decoder.length
    rng = np.random.default_rng(0)
    times: dict[int, list[float]] = {count: [] for count in ROWS}
    differ: dict[int, list[float]] = {count: [] for count in ROWS}
    for _ in range(rounds):
        ids = rng.choice(layout.token_ids, max(ROWS)).tolist()
        single = [model.step(decoder, layout, token).copy() for token in ids]
        for count in ROWS:
            for _ in range(2):  # the first makes room for its rows
                decoder.rewind(start)
                begun = time.perf_counter()
                logits = model.steps(decoder, layout, ids[:count])
                took = time.perf_counter() - begun
            times[count].append(took * 1e3)
            gaps = np.abs(logits - single[:count]).max(axis=1) / np.std(single[:count], axis=1)
            differ[count].append(float(gaps.max()))
        decoder.rewind(start)
    return {
        count: {"ms": statistics.median(times[count]), "difference": max(differ[count])}
        for count in ROWS
    }


@contextmanager
def saying(model: Model, text: str, prompt: str) -> Iterator[int]:
    """The model says a text after a prompt; gives the number of its ids."""
    ids, run = model.codec.encode(text), OnnxDecoder.run
    first = len(model.prepare(prompt, raw=True)[0].token_ids) - 1

    def raised(self: OnnxDecoder, inputs: Any, *, num_logits: int = 1) -> np.ndarray:
        logits = run(self, inputs, num_logits=num_logits)
        for row, position in zip(logits, range(self.length - num_logits, self.length), strict=True):
            if 0 <= position - first < len(ids):
                row[ids[position - first]] = row.max() + SURE * row.std()
        return logits

    OnnxDecoder.run = raised
    try:
        yield len(ids)
    finally:
        OnnxDecoder.run = run


def answers(model: Model, prompt: str, rounds: int, new_tokens: int) -> dict[str, Any]:
    """Tokens a second without and with, and what became of drafts."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    ids: list[list[int]] = []
    drafted = accepted = 0
    for _ in range(rounds):
        for speculate in rates:
            model.prefixes.clear()  # every answer begins alike
            answer = model.generate(
                prompt, max_new_tokens=new_tokens, raw=True, speculate=speculate
            )
            rates[speculate].append(1e3 / answer.timings.tpot)
            ids.append(answer.token_ids)
            drafted, accepted = answer.drafted_tokens, answer.accepted_tokens
    plain, quick = (statistics.median(rates[speculate]) for speculate in rates)
    return {
        "plain": plain,
        "speculate": quick,
        "ratio": quick / plain,
        "drafted": drafted,
        "accepted": accepted,
        "tokens": len(ids[0]),
        "equal": all(one == ids[0] for one in ids),
    }


def main() -> None:
    """Prints tables and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=96)
    args = parser.parse_args()
    model = vlrt.load(args.package)
    by_rows = rows(model, args.rounds)
    print("ids of a run        ms   of one   difference")
    for count, found in by_rows.items():
        of_one = found["ms"] / by_rows[1]["ms"]
        print(f"{count:12} {found['ms']:9.1f} {of_one:8.2f} {found['difference']:12.4f}")
    said = {name: answers(model, p, args.rounds, args.new_tokens) for name, p in PROMPTS.items()}
    for name, text in TOLD.items():
        with saying(model, text, ASKED) as count:
            said[f"told {name}"] = answers(model, ASKED, args.rounds, count)
    print("\nprompt     tokens/s  speculate  ratio  accepted of drafted  equal")
    for name, found in said.items():
        counts = f"{found['accepted']} of {found['drafted']}"
        print(
            f"{name:10} {found['plain']:8.1f} {found['speculate']:10.1f} {found['ratio']:6.2f}"
            f" {counts:>20}  {found['equal']}"
        )
    print(json.dumps({"package": args.package, "rows": by_rows, "answers": said}))


if __name__ == "__main__":
    main()
