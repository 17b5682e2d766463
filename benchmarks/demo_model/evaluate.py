"""Ask a checkpoint about held-out scenes through transformers, by real greedy generation.

    python -m benchmarks.demo_model.evaluate vlrt/demo/checkpoint --per-task 100

Pictures pass the checkpoint's own image processor and prompts its own chat template. Prints a table
per task for combinations of colour and kind that training had ("seen") and never had ("unseen"),
and one JSON line last. An answer is right if it is the whole right text; boxes get their IoU.
"""

import argparse
import json
import re
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.demo_model.questions import QA, TASKS
from benchmarks.demo_model.scenes import scene
from benchmarks.demo_model.shapes import Box

TARGETS = {"colour": 0.95, "shape": 0.95, "read": 0.95, "count": 0.95, "relation": 0.9,
           "describe": 0.85, "where": 0.7}  # fmt: skip


class Checkpoint:
    """A Qwen2-VL folder that answers one question about one picture."""

    def __init__(self, folder: Path):
        load = Qwen2VLForConditionalGeneration.from_pretrained
        self.model = load(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
        self.image = self.model.config.image_token_id

    @torch.no_grad()
    def answer(self, picture, question: str) -> str:
        image = self.processor(images=[picture], return_tensors="pt")
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        tokens = int(image["image_grid_thw"].prod()) // self.processor.merge_size**2
        prompt = prompt.replace("<|image_pad|>", "<|image_pad|>" * tokens)
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == self.image).int(),
            max_new_tokens=64,
            do_sample=False,
            **image,
        )[0, ids.shape[1] :]
        ends = self.model.generation_config.eos_token_id
        return self.tokenizer.decode([i for i in out.tolist() if i not in ends])


def read_box(text: str) -> Box | None:
    found = re.fullmatch(r"<\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|>", text)
    return tuple(float(v) for v in found.groups()) if found else None


def iou(a: Box, b: Box) -> float:
    """Overlap over union of two (x1, y1, x2, y2) boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def score(qa: QA, text: str) -> float:
    """1 or 0 for an exact match; IoU for a box, 0 if the text is none."""
    if qa.box is None:
        return float(text == qa.answer)
    box = read_box(text)
    return iou(box, qa.box) if box else 0.0


def evaluate(checkpoint: Checkpoint, split: str, per_task: int, show: int) -> dict[str, dict]:
    """Scores by task over the first scenes of a split, one question per task and scene."""
    scores: dict[str, list[float]] = {task: [] for task in TASKS}
    shown, seed = 0, 0
    while min(map(len, scores.values())) < per_task:
        s = scene(seed, split)
        for task in TASKS:
            asked = [q for q in s.qa if q.task == task]
            if not asked or len(scores[task]) >= per_task:
                continue
            qa = asked[seed % len(asked)]
            text = checkpoint.answer(s.picture, qa.question)
            scores[task].append(score(qa, text))
            if scores[task][-1] < 0.5 and shown < show:
                shown += 1
                print(f"  {split} {seed} {qa.question} | right: {qa.answer} | said: {text}")
        seed += 1
    return {t: {"score": round(sum(v) / len(v), 4), "n": len(v)} for t, v in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-task", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--show", type=int, default=10, help="wrong answers to print per split")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    checkpoint = Checkpoint(args.folder)
    result = {s: evaluate(checkpoint, s, args.per_task, args.show) for s in ("seen", "unseen")}
    print(f"| task | measure | target | seen | unseen |  ({args.per_task} questions each)")
    print("| --- | --- | --- | --- | --- |")
    for task in TASKS:
        measure = "mean IoU" if task == "where" else "exact match"
        row = [result[s][task]["score"] for s in ("seen", "unseen")]
        print(f"| {task} | {measure} | {TARGETS.get(task, '-')} | {row[0]:.3f} | {row[1]:.3f} |")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
