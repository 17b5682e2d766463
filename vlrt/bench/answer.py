"""One answer, stage by stage: the model's own steps, with a stamp after each and at every id.

It goes past stop ids and adds nothing to the caches that answers usually profit from, so that every
run does the same work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from vlrt.bench.record import Run
from vlrt_runtime.greedy import greedy
from vlrt_runtime.model import Model
from vlrt_runtime.reuse import pictures_from, position_keys

__all__ = ["Made", "answer"]


@dataclass(frozen=True)
class Made:
    """An answer's times, ids, and how much work it was."""

    run: Run
    token_ids: list[int]
    counts: dict[str, int]


def answer(
    model: Model, prompt: str, pictures: list[bytes], new_tokens: int, *, caches: bool = False
) -> Made:
    """Decodes exactly `new_tokens` ids; `ttft` begins with the pictures still bytes of a file.

    With `caches` it takes what they hold, and adds nothing.
    """
    clock = time.perf_counter
    stamps = [clock()]
    layout, prepared = model.prepare(prompt, pictures)
    begun = model.prefixes.find(position_keys(layout, prepared)) if caches else None
    start = begun.length if begun else 0
    stamps.append(clock())
    # What the decoder takes of a picture beside its rows, it takes of all pictures.
    needed = prepared if model.static_specs else pictures_from(layout, prepared, start)
    known = [model.features.get(picture.digest) if caches else None for picture in needed]
    encoded = [model.encode(p) for p, kept in zip(needed, known, strict=True) if kept is None]
    stamps.append(clock())
    made = (model.projector(outputs) for outputs in encoded)
    projected = [next(made) if kept is None else kept for kept in known]
    embeds = model.splice(layout, projected, start)
    stamps.append(clock())
    static = model.static_inputs(projected)
    decoder = begun.decoder(static) if begun else model.backend.decoder(static)
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
    if not encoded:
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
        "cached_tokens": start,
        "encoder_rows": sum(map(prod, rows)),
    }
    return Made(Run(stages, tokens, chosen[0]), ids, counts)
