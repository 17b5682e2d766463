"""What training asks for: the right answers, and on the way what each image token shows.

Each loss comes with the measurements to report, as (sum, count) by name.
"""

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

from benchmarks.demo_model import model as M
from benchmarks.demo_model.batches import Batch, Text
from benchmarks.demo_model.questions import BOX_STEP, TASKS
from benchmarks.demo_model.shapes import COLOURS, KINDS
from benchmarks.demo_model.tokenizer import number_ids

Measured = list[tuple[str, torch.Tensor]]  # (name, values to average)
_BUMP = (0.05, 0.25, 0.4, 0.25, 0.05)  # target of a coordinate: its neighbours are nearly right
_STEPS = 1000 // BOX_STEP  # values a coordinate can take


def _bumps(n: int) -> torch.Tensor:
    """[n, n] row i: a bump around i that sums to one."""
    reach = len(_BUMP) // 2
    rows = sum(
        torch.diag(torch.full((n - abs(k),), _BUMP[k + reach]), k) for k in range(-reach, reach + 1)
    )
    return rows / rows.sum(1, keepdim=True)


class DenseHeads(nn.Module):
    """Reads kind, colour, box and place off every image feature; used in training only.

    The place is read twice, as four numbers and as four coordinates among the values an answer can
    name: a number alone is too faint in a feature for the decoder to compare or to name.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.sizes = (len(KINDS) + 1, len(COLOURS) + 1, 4, 4, 4 * _STEPS)
        self.bumps = _bumps(_STEPS)
        self.out = nn.Linear(dim, sum(self.sizes))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.out(features.float()).split(self.sizes, -1)

    def loss(self, features: torch.Tensor, b: Batch) -> tuple[torch.Tensor, Measured]:
        """Of image features [B, n, D] against the batch's dense labels."""
        kinds, colours, boxes, places, edges = self(features)
        thing = b.kinds < len(KINDS)
        named = kinds.argmax(-1) == b.kinds
        edges = edges[thing].unflatten(-1, (4, _STEPS))
        truth = (b.places[thing] * _STEPS).round().long().clamp(0, _STEPS - 1)
        measured = [
            ("edge_steps", (edges.argmax(-1) - truth).abs()),
            ("kind", named[thing]),
            ("nothing", named[~thing]),
            ("tint", (colours.argmax(-1) == b.colours)[thing]),
            ("edge_px", (boxes - b.boxes)[thing].abs() * 28),
            ("place", (places - b.places)[thing].abs()),
        ]
        loss = (
            F.cross_entropy(kinds.flatten(0, 1), b.kinds.flatten())
            + F.cross_entropy(colours.flatten(0, 1), b.colours.flatten())
            + F.smooth_l1_loss(boxes[thing], b.boxes[thing], beta=0.1)
            + 5 * F.smooth_l1_loss(places, b.places, beta=0.02)  # 5: small numbers otherwise
            - (self.bumps[truth] * edges.log_softmax(-1)).sum(-1).mean()
        )
        return loss, measured


def answer_targets(tokenizer: Tokenizer) -> torch.Tensor:
    """[V, V] what to predict for each label: itself, or for coordinates a bump around itself."""
    targets = torch.eye(tokenizer.get_vocab_size())
    numbers = number_ids(tokenizer)[1:]  # "0" is a digit and a count too: stays sharp
    targets[numbers] = 0
    targets[torch.tensor(numbers)[:, None], numbers] = _bumps(len(numbers))
    return targets


def answer_loss(
    w: M.Weights, hidden: torch.Tensor, t: Text, targets: torch.Tensor
) -> tuple[torch.Tensor, Measured]:
    """Of hidden states [B, T, D] against the answers' tokens.

    An answer counts as right when every token is the likeliest one, given the right ones before it.
    """
    at = _padded((t.labels.flatten() >= 0).nonzero()[:, 0])
    scores = M.logits(w, hidden.flatten(0, 1)[at]).float()
    labels, weights = t.labels.flatten()[at].clamp_min(0), t.weights.flatten()[at]
    each = -(targets[labels] * scores.log_softmax(-1)).sum(-1)
    right = torch.zeros_like(t.labels, dtype=torch.bool)
    right.view(-1)[at] = scores.argmax(-1) == labels
    measured = [(TASKS[task], right[row, a:b].all()) for row, a, b, task in t.spans]
    steps = ((targets > 0).sum(1) > 1)[labels]  # a coordinate: the only labels with neighbours
    measured.append(("box_steps", (scores.argmax(-1) - labels)[steps].abs().clamp(max=_STEPS)))
    return (each * weights).sum() / weights.sum(), measured


def _padded(at: torch.Tensor, multiple: int = 256) -> torch.Tensor:
    """Fill up indices with 0: few shapes, where each costs seconds of kernel set-up.

    The first position of a sequence belongs to no answer and its loss weighs nothing.
    """
    return F.pad(at, (0, -len(at) % multiple))
