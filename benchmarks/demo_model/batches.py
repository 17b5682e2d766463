"""Scenes -> training tensors: patches, dense labels, and several questions packed per picture.

One batch holds pictures of one size. A sequence is the prompt's head with the image, then question
and answer pairs; a pair sees the head and itself only, at the positions it would have alone, so one
pass trains many questions at the price of one picture.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from benchmarks.demo_model.questions import QA, TASKS
from benchmarks.demo_model.scenes import TOKEN, Scene, scene
from benchmarks.demo_model.shapes import COLOURS, KINDS
from benchmarks.demo_model.tokenizer import END_OF_TEXT, IMAGE, VISION_END, VISION_START

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
LENGTH = (
    208  # of every sequence, whatever the picture: each new shape costs seconds of kernel set-up
)
PATCH = TOKEN // 2
_HIDDEN = -3e4  # added to hidden scores; finite, so that rows of padding stay numbers
_COVERED = 0.12  # least part of a token's cell that a thing's box must cover to own the cell
# How often a task is drawn when a picture's room is filled; harder tasks more.
_DRAWS = {"relation": 3, "where": 3, "count": 2}


@dataclass
class Batch:
    """Tensors of one step. B pictures, n image tokens each, T = LENGTH."""

    grid: tuple[int, int]
    patches: torch.Tensor  # [B, 4n, 588] float32
    kinds: torch.Tensor  # [B, n] index in KINDS, len(KINDS) where nothing is
    colours: torch.Tensor  # [B, n]
    boxes: torch.Tensor  # [B, n, 4] edges of the thing (or empty cell), in cells from its corner
    places: torch.Tensor  # [B, n, 4] the same edges as fractions of the picture
    text: "Text | None" = None


@dataclass
class Text:
    """The packed questions and answers of a batch."""

    ids: torch.Tensor  # [B, T]
    labels: torch.Tensor  # [B, T] next token where it belongs to an answer, else -100
    weights: torch.Tensor  # [B, T] of the loss
    positions: torch.Tensor  # [3, B, T]
    bias: torch.Tensor  # [B, 1, T, T]
    spans: list[tuple[int, int, int, int]]  # (row, start, end, task) of every answer's labels
    first_image: int


class Batcher:
    """Makes batches; knows the prompt's fixed parts and the tokenizer."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self.head = [*self.encode("<|im_start|>user\n"), tokenizer.token_to_id(VISION_START)]
        self.tail = self.encode("<|im_end|>\n<|im_start|>assistant\n")
        self.end = self.encode("<|im_end|>")
        self.image, self.after, self.pad = map(
            tokenizer.token_to_id, (IMAGE, VISION_END, END_OF_TEXT)
        )

    def encode(self, text: str) -> list[int]:
        if text not in self._cache:
            if len(self._cache) > 50_000:
                self._cache.clear()
            self._cache[text] = self.tokenizer.encode(text).ids
        return self._cache[text]

    def batch(
        self,
        first_seed: int,
        count: int,
        grid: tuple[int, int],
        *,
        most: int = 4,
        text: bool = True,
    ) -> Batch:
        """Scenes from consecutive seeds of the training split; without `text`, no questions."""
        scenes = [scene(first_seed + i, grid=grid, most=most) for i in range(count)]
        patches = np.stack([patchify(resized(s.picture, grid)) for s in scenes])
        dense = [dense_labels(s, grid) for s in scenes]
        dense = (torch.from_numpy(np.stack(x)) for x in zip(*dense, strict=True))
        rng = random.Random(first_seed)
        packed = None
        if text:
            room = LENGTH - len(self.head) - grid[0] * grid[1] - 1
            packed = self._pack([self._choose(s.qa, rng, room) for s in scenes], grid)
        return Batch(grid, torch.from_numpy(patches), *dense, packed)

    def _choose(self, qa: tuple[QA, ...], rng: random.Random, room: int) -> list[QA]:
        """Fill the room: tasks in turn, at random inside a task."""
        pools = {task: [q for q in qa if q.task == task] for task in TASKS}
        for pool in pools.values():
            rng.shuffle(pool)
        chosen = []
        turns = [task for task in TASKS for _ in range(_DRAWS.get(task, 1))]
        rng.shuffle(turns)
        turns.sort(key=lambda task: task != "describe")  # the longest answer while there is room
        for task in turns * 2:
            if pools[task]:
                pair = pools[task].pop()
                size = len(self.encode(pair.question) + self.tail + self.encode(pair.answer)) + 1
                if size <= room:
                    chosen.append(pair)
                    room -= size
        return chosen

    def _pack(self, chosen: list[list[QA]], grid: tuple[int, int]) -> Text:
        gw, gh = grid
        n, start = gw * gh, len(self.head)
        head = [*self.head, *[self.image] * n, self.after]
        rows, length = len(chosen), LENGTH
        ids = np.full((rows, length), self.pad)
        labels = np.full((rows, length), -100)
        weights = np.zeros((rows, length), np.float32)
        segment = np.full((rows, length), -1)
        positions = np.zeros((3, rows, length), np.int64)
        spans = []
        ids[:, : len(head)], segment[:, : len(head)] = head, 0
        positions[:, :, :start] = np.arange(start)
        # M-RoPE: image tokens share one time step and move in height and width; text goes on after
        # the largest position so far.
        image = np.stack([np.zeros(n), np.repeat(np.arange(gh), gw), np.tile(np.arange(gw), gh)])
        positions[:, :, start : start + n] = start + image[:, None]
        after = start + max(gw, gh)
        positions[:, :, start + n] = after
        for row, pairs in enumerate(chosen):
            at = len(head)
            for number, pair in enumerate(pairs, 1):
                asked = self.encode(pair.question) + self.tail
                answer = self.encode(pair.answer) + self.end
                stop = at + len(asked) + len(answer)
                ids[row, at:stop], segment[row, at:stop] = asked + answer, number
                positions[:, row, at:stop] = after + 1 + np.arange(stop - at)
                first = at + len(asked) - 1  # this token predicts the answer's first
                labels[row, first : stop - 1] = answer
                weights[row, first : stop - 1] = len(answer) ** -0.5
                spans.append((row, first, stop - 1, TASKS.index(pair.task)))
                at = stop
        same = segment[:, :, None] == segment[:, None]
        seen = (same | (segment[:, None] == 0)) & np.tri(length, dtype=bool)
        bias = torch.from_numpy(np.where(seen, np.float32(0), np.float32(_HIDDEN)))[:, None]
        arrays = (torch.from_numpy(a) for a in (ids, labels, weights, positions))
        return Text(*arrays, bias.bfloat16(), spans, start)


def resized(picture: Image.Image, grid: tuple[int, int]) -> Image.Image:
    """What Qwen2-VL's processor makes of the picture: bicubic to multiples of 28."""
    size = (grid[0] * TOKEN, grid[1] * TOKEN)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


def patchify(picture: Image.Image) -> np.ndarray:
    """[4n, 588]: normalised 14-pixel patches in merge-block order, columns channel, row, column."""
    pixels = (np.asarray(picture, np.float32) / 255 - MEAN) / STD
    gh, gw = pixels.shape[0] // TOKEN, pixels.shape[1] // TOKEN
    cells = pixels.transpose(2, 0, 1).reshape(3, gh, 2, PATCH, gw, 2, PATCH)
    return cells.transpose(1, 4, 2, 5, 0, 3, 6).reshape(gh * gw * 4, -1)


def dense_labels(s: Scene, grid: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """What each token's cell shows: kind [n], colour [n], and its box [n, 4] in two ways.

    The first box is measured from the cell's corner, the second in the picture. Qwen2-VL's encoder
    has relative positions only; the second teaches it to tell where in the picture a cell is, which
    boxes and relations need.
    """
    gw, gh = grid
    kinds = np.full((gh, gw), len(KINDS))
    colours = np.full((gh, gw), len(COLOURS))
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (gh, gw, 1))
    best = np.full((gh, gw), _COVERED, np.float32)
    y, x = np.mgrid[:gh, :gw].astype(np.float32)
    corner = np.stack([x, y, x, y], -1)
    cells = np.array([gw / s.picture.width, gh / s.picture.height] * 2, np.float32)
    for thing in s.things:
        box = np.array(thing.box, np.float32) * cells - corner  # [gh, gw, 4]
        cut = np.clip(box, 0, 1)
        covered = (cut[..., 2] - cut[..., 0]) * (cut[..., 3] - cut[..., 1])
        won = covered > best
        best[won], boxes[won] = covered[won], box[won]
        kinds[won], colours[won] = KINDS.index(thing.kind), list(COLOURS).index(thing.colour)
    places = (boxes + corner) / np.array([gw, gh] * 2, np.float32)
    return kinds.ravel(), colours.ravel(), boxes.reshape(-1, 4), places.reshape(-1, 4)
