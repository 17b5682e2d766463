"""One answer, stage by stage: the model's own steps, with a stamp after each and at every id.

It goes around the caches that answers usually profit from, and around stop ids, so that every run
does the same work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from vlrt.bench.record import Run
from vlrt_runtime.greedy import greedy
from vlrt_runtime.model import Model

__all__ = ["Made", "answer"]


@dataclass(frozen=True)
class Made:
    """An answer's times, ids, and how much work it was."""

    run: Run
    token_ids: list[int]
    counts: dict[str, int]


def answer(model: Model, prompt: str, pictures: list[bytes], new_tokens: int) -> Made:
    """Decodes exactly `new_tokens` ids; `ttft` begins with the pictures still bytes of a file."""
    clock = time.perf_counter
    stamps = [clock()]
    layout, prepared = model.prepare(prompt, pictures)
    stamps.append(clock())
    encoded = [model.encode(picture) for picture in prepared]
    stamps.append(clock())
    projected = [model.projector(outputs) for outputs in encoded]
    embeds = model.splice(layout, projected)
    stamps.append(clock())
    decoder = model.decoder(projected)
    decoder.reserve(len(layout.token_ids) + new_tokens)
    penalty = model.manifest.generation.repetition_penalty
    run = decoder.next_ids if penalty == 1.0 else decoder.run
    scores = model.prefill(decoder, layout, embeds, run)[-1]
    stamps.append(clock())
    seen: list[int] = layout.token_ids.tolist()
    chosen: list[float] = []

    def choose(scores: object) -> int:
        seen.append(token := model.choose(scores, seen))
        chosen.append(clock())
        return token

    ids = list(
        greedy(
            scores,
            lambda token: model.step(decoder, layout, token, run),
            stop_ids=(),
            max_new_tokens=new_tokens,
            choose=choose,
        )
    )
    laps = [1e3 * (b - a) for a, b in pairwise(stamps)]
    stages: dict[str, float] = dict(
        zip(("preprocess", "encode", "project", "prefill"), laps, strict=True)
    )
    if not pictures:
        stages.pop("encode")
    stages["ttft"] = 1e3 * (chosen[0] - stamps[0])
    tokens = [1e3 * (b - a) for a, b in pairwise(chosen)]
    if tokens:
        stages["tpot"] = sum(tokens) / len(tokens)
    stages["total"] = 1e3 * (chosen[-1] - stamps[0])
    rows = [next(iter(outputs.values())).shape[:-1] for outputs in encoded]
    counts = {
        "image_tokens": sum(picture.tokens for picture in prepared),
        "prompt_tokens": len(layout.token_ids),
        "new_tokens": len(ids),
        "encoder_rows": sum(map(prod, rows)),
    }
    return Made(Run(stages, tokens, chosen[0]), ids, counts)
