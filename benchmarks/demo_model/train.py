"""Train the demo model: `--stage dense` (vision encoder on per-token labels), then `--stage joint`.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.demo_model.train --stage dense \
        --out runs/dense --steps 4000 --decay 1500

One single-threaded process a core, gradients averaged. State (weights, optimisers, counters) is
saved every `--save` steps and a run that finds one in `--out` goes on from it; `--steps` and
`--decay` may be changed then, so a run can be kept at full rate and cooled down when wanted.
"""

import argparse
import datetime
import json
import random
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.demo_model import model as M
from benchmarks.demo_model import tokenizer as tok
from benchmarks.demo_model.batches import Batch, Batcher
from benchmarks.demo_model.losses import DenseHeads, Measured, answer_loss, answer_targets
from benchmarks.demo_model.questions import TASKS
from benchmarks.demo_model.scenes import GRIDS


class Trainer:
    def __init__(self, args: argparse.Namespace):
        self.args, self.rank = args, dist.get_rank()
        torch.manual_seed(0)
        self.tokenizer = tok.build()
        ids = {s: self.tokenizer.token_to_id(s) for s in tok.SPECIAL}
        self.model = M.build(ids, self.tokenizer.get_vocab_size())
        self.heads = DenseHeads(M.TEXT["hidden_size"])
        # Compiled, the decoder takes half the time; the encoder, with many shapes, gains little.
        self.decode = torch.compile(M.decode, dynamic=False)
        self.batcher = Batcher(self.tokenizer)
        self.targets = answer_targets(self.tokenizer)
        self.step, self.pictures, self.most = 0, 0, args.most
        self.totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        joint = args.stage == "joint"
        trained = self.model if joint else self.model.model.visual
        self.parameters = [*trained.parameters(), *self.heads.parameters()]
        self.optimisers = _optimisers(trained, self.heads, args)
        self._load()

    def _load(self) -> None:
        own = self.args.out / "state.pt"
        if own.exists() or self.args.init:
            state = torch.load(own if own.exists() else self.args.init)
            self.model.load_state_dict(state["model"])
            self.heads.load_state_dict(state["heads"])
        if own.exists():
            self.step, self.pictures, self.most = state["step"], state["pictures"], state["most"]
            rates = (self.args.muon_lr, self.args.adam_lr)  # today's, not the saved ones
            for optimiser, saved, rate in zip(
                self.optimisers, state["optimisers"], rates, strict=True
            ):
                optimiser.load_state_dict(saved)
                for group in optimiser.param_groups:
                    group["full_lr"] = rate

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "step": self.step, "pictures": self.pictures, "most": self.most,
        }  # fmt: skip
        torch.save(state, self.args.out / "state.tmp")
        (self.args.out / "state.tmp").replace(self.args.out / "state.pt")

    def batch(self) -> Batch:
        """Every process draws the same picture size, so that none waits for another."""
        grid = random.Random(self.step).choice(GRIDS)
        count = self.args.pictures
        first = (self.args.seed + self.step * dist.get_world_size() + self.rank) * 1000
        self.pictures += count * dist.get_world_size()
        text = self.args.stage == "joint"
        return self.batcher.batch(first, count, grid, most=self.most, text=text)

    def loss(self, b: Batch) -> torch.Tensor:
        w = M.weights(self.model)
        learns = self.step % self.args.encoder_every == 0
        with torch.set_grad_enabled(learns):
            features = M.encode(w, b.patches, b.grid)
            dense, measured = self.heads.loss(features, b)
        self._count(measured)
        if b.text is None:
            return dense
        x = M.splice(w, b.text.ids, features, b.text.first_image)
        hidden = self.decode(M.text_weights(w), x, b.text.positions, b.text.bias)
        answers, measured = answer_loss(w, hidden, b.text, self.targets)
        self._count(measured)
        return answers + self.args.dense_weight * dense if learns else answers

    def _count(self, measured: Measured) -> None:
        for name, values in measured:
            total = self.totals[name]
            total[0] += values.float().sum().item()
            total[1] += values.numel()

    def update(self) -> None:
        loss = self.loss(self.batch())
        self._count([("loss", loss.detach())])
        loss.backward()
        learning = [p for p in self.parameters if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in learning])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        flat *= min(1.0, self.args.clip / (flat.norm().item() + 1e-6))
        for p, g in zip(learning, flat.split([p.numel() for p in learning]), strict=True):
            p.grad = g.view_as(p)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["full_lr"] * self._rate()
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1

    def _rate(self) -> float:
        """Warm up, hold, then fall linearly to zero over the last `decay` steps."""
        a = self.args
        return min(
            1.0, (self.step + 1) / a.warmup, max(0.0, (a.steps - self.step) / max(1, a.decay))
        )

    def report(self, seconds: float) -> None:
        """Print the averages of every process since the last report; raise the level if earned."""
        names = sorted({*self.totals, *TASKS})  # the same list on every process
        flat = torch.tensor([self.totals[n] for n in names])
        dist.all_reduce(flat)
        means = {n: round((s / c).item(), 4) for n, (s, c) in zip(names, flat, strict=True) if c}
        self.totals.clear()
        # A box is right here only to the last rounding, which says little: leave it out.
        tasks = [means[t] for t in TASKS if t in means and t != "where"]
        line = {"step": self.step, "pictures": self.pictures, "most": self.most,
                "s": round(seconds, 1), "rate": round(self._rate(), 3), **means}  # fmt: skip
        if self.rank == 0:
            print(json.dumps(line), flush=True)
        if tasks and self.most < 4 and sum(tasks) / len(tasks) > self.args.raise_at:
            self.most += 1


def _optimisers(trained: nn.Module, heads: nn.Module, args: argparse.Namespace) -> list:
    """Muon for the matrices inside the network, AdamW for what comes in, goes out or scales."""
    inside = [p for n, p in trained.named_parameters() if p.ndim == 2 and "embed" not in n]
    chosen = {id(p) for p in inside}
    rest = [p for p in [*trained.parameters(), *heads.parameters()] if id(p) not in chosen]
    muon = torch.optim.Muon(
        inside, lr=args.muon_lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(rest, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["full_lr"] = group["lr"]
    return [muon, adam]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=("dense", "joint"), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of this run's state")
    parser.add_argument("--init", type=Path, help="state.pt of the stage before")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--decay", type=int, default=0, help="last steps, falling to zero")
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=20, help="a step and process")
    parser.add_argument(
        "--most", type=int, default=4, help="most things in a picture, to begin with"
    )
    parser.add_argument("--raise-at", type=float, default=0.8, help="accuracy that adds a thing")
    parser.add_argument("--muon-lr", type=float, default=4e-3)
    parser.add_argument("--adam-lr", type=float, default=2e-3)
    parser.add_argument(
        "--dense-weight", type=float, default=0.5, help="of dense labels when joint"
    )
    parser.add_argument(
        "--encoder-every",
        type=int,
        default=1,
        help="of how many joint steps the encoder learns in one",
    )
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument(
        "--seed", type=int, default=0, help="offset of the scenes' seeds, in batches"
    )
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save", type=int, default=200)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    # Hours: a run may be paused as a whole.
    dist.init_process_group("gloo", timeout=datetime.timedelta(hours=6))
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(args)
    since = time.time()
    while trainer.step < args.steps:
        trainer.update()
        if trainer.step % args.log_every == 0:
            trainer.report(time.time() - since)
            since = time.time()
        if trainer.rank == 0 and (trainer.step % args.save == 0 or trainer.step == args.steps):
            trainer.save()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
