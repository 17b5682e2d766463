"""What a precision costs in answers: the demo model on held-out scenes, at every precision.

    python -m benchmarks.accuracy --scenes 500

transformers in float32 is the reference. For each plan: exact match and mean IoU by task, tokens
that agree with the reference's greedy answer, the mean KL divergence of next-token distributions
along that answer, size and decode speed. Prints a table, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.demo_model.questions import QA
from benchmarks.demo_model.scenes import scene
from vlrt.demo import CHECKPOINT
from vlrt.verify.reference import Reference, load_reference
from vlrt_export.exporter import export
from vlrt_runtime.model import Model

NEW_TOKENS = 64
PLANS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "fp16": {"precision": "fp16"},
    "int8": {"precision": "int8"},
    "int4": {"precision": "int4"},
    "int4, block 32": {"precision": "int4", "block_size": 32},
    "int4, level 0": {"precision": "int4", "accuracy_level": 0},
    "int4 everywhere": {"precision": "int4", "vision": "int4", "projector": "int4"},
}


@dataclass
class Case:
    """A question about a scene, and what the reference says to it."""

    picture: Any
    qa: QA
    ids: list[int]
    stopped: bool
    logits: np.ndarray  # [steps, vocab]
    text: str


@dataclass
class Score:
    """Sums over cases."""

    exact: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    iou: list[float] = field(default_factory=list)
    equal: int = 0
    tokens: int = 0
    agreed: int = 0
    kl: list[float] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0


def cases(reference: Reference, count: int, split: str, questions: int) -> Iterator[Case]:
    """The first `count` scenes of a split, a few questions of different tasks about each."""
    for seed in range(count):
        made = scene(seed, split)
        by_task: dict[str, list[QA]] = defaultdict(list)
        for qa in made.qa:
            by_task[qa.task].append(qa)
        rng = random.Random(seed)
        for task in rng.sample(sorted(by_task), min(questions, len(by_task))):
            qa = rng.choice(by_task[task])
            content = [{"type": "image"}, {"type": "text", "text": qa.question}]
            inputs = reference.inputs([{"role": "user", "content": content}], [made.picture])
            ids, reason, logits = reference.decode_greedily(inputs, NEW_TOKENS)
            yield Case(made.picture, qa, ids, reason == "stop", logits, "")


def run(model: Model, case: Case, score: Score) -> None:
    """Answers one case and adds it up."""
    answer = model.generate(case.qa.question, images=[case.picture], max_new_tokens=NEW_TOKENS)
    judge(case.qa, answer.text, [b for e in answer.entities for b in e.boxes], score)
    score.seconds += answer.timings.tpot * max(0, len(answer.token_ids) - 1) / 1e3
    score.steps += max(0, len(answer.token_ids) - 1)
    same = [a == b for a, b in zip(answer.token_ids, case.ids, strict=False)]
    score.agreed += same.index(False) if False in same else len(same)
    score.tokens += len(case.ids)
    score.equal += answer.token_ids == case.ids
    score.kl.append(divergence(model, case))


def judge(qa: QA, text: str, boxes: list[Any], score: Score) -> None:
    """Exact match by task; boxes by how much they overlap."""
    if qa.box is None:
        score.exact[qa.task].append(text.strip() == qa.answer)
    else:
        truth = [value / 1000 for value in qa.box]
        score.iou.append(overlap(boxes[0], truth) if boxes else 0.0)


def overlap(a: Any, b: Any) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inner = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return inner / (sum(areas) - inner) if inner else 0.0


def divergence(model: Model, case: Case) -> float:
    """Mean KL(reference || package) in nats, over the steps of the reference's answer."""
    layout, pictures = model.prepare(case.qa.question, [case.picture])
    projected = [model.projector(model.encode(picture)) for picture in pictures]
    ids = np.array(case.ids[: len(case.logits) - 1], np.int64)
    embeds = np.concatenate([model.splice(layout, projected), model.embed(ids)[None]], 1)
    logits = model.decoder().run(layout.inputs(embeds, 0), num_logits=len(ids) + 1)
    p, q = (log_softmax(rows) for rows in (case.logits[: len(ids) + 1], logits))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def log_softmax(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    rows = rows - rows.max(-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(-1, keepdims=True))


def report(name: str, score: Score, size: int, cases: int) -> dict[str, Any]:
    """One plan's figures."""
    every = [hit for hits in score.exact.values() for hit in hits]
    return {
        "plan": name,
        "exact": {task: float(np.mean(hits)) for task, hits in sorted(score.exact.items())},
        "exact_all": float(np.mean(every)),
        "mean_iou": float(np.mean(score.iou)) if score.iou else None,
        "answers_equal": score.equal / cases,
        "tokens_agree": score.agreed / max(1, score.tokens),
        "kl": float(np.mean(score.kl)),
        "megabytes": size / 1e6,
        "tokens_per_s": score.steps / score.seconds if score.seconds else None,
    }


def show(rows: list[dict[str, Any]]) -> None:
    tasks = list(rows[0]["exact"])
    head = ["plan", "all", *tasks, "IoU", "equal", "tokens", "KL", "MB", "tok/s"]
    print("  ".join(f"{cell:>8}" if i else f"{cell:18}" for i, cell in enumerate(head)))
    for row in rows:
        cells = [f"{row['exact_all']:.2%}", *(f"{row['exact'][task]:.1%}" for task in tasks)]
        cells += [f"{row['mean_iou']:.3f}", f"{row['answers_equal']:.2%}"]
        cells += [f"{row['tokens_agree']:.2%}", f"{row['kl']:.1e}"]
        cells += [f"{row['megabytes']:.1f}", f"{row['tokens_per_s'] or 0:.0f}"]
        print(f"{row['plan']:18}  " + "  ".join(f"{cell:>8}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--questions", type=int, default=3, help="about each scene")
    parser.add_argument("--split", default="seen", choices=("seen", "unseen"))
    parser.add_argument("--plans", nargs="*", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    reference = load_reference(args.checkpoint, "qwen2_vl")
    started = time.perf_counter()
    all_cases = list(cases(reference, args.scenes, args.split, args.questions))
    print(f"{len(all_cases)} questions, reference in {time.perf_counter() - started:.0f} s")
    rows = []
    with tempfile.TemporaryDirectory(prefix="vlrt-accuracy-") as scratch:
        for number, name in enumerate(args.plans):
            package = export(args.checkpoint, Path(scratch) / str(number), **PLANS[name])
            model, score = Model(package, threads=args.threads), Score()
            for case in all_cases:
                run(model, case, score)
            size = sum(file.stat().st_size for file in package.iterdir())
            rows.append(report(name, score, size, len(all_cases)))
            if name == "fp32" and score.equal < len(all_cases):
                print(f"fp32 differs from transformers in {len(all_cases) - score.equal} answers")
    show(rows)
    print(json.dumps({"split": args.split, "questions": len(all_cases), "plans": rows}))


if __name__ == "__main__":
    main()
