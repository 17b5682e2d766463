"""What vlrt is to reach, and whether it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SMALL, LARGE, ALL = "500x336", "1280x720", ""
Figures = Mapping[tuple[str, str], Mapping[str, float]]  # (peer, size) -> figure -> median


@dataclass(frozen=True)
class Target:
    """A bound on a figure of vlrt, or on its ratio to another.

    Attributes:
        figure: by its name in a table.
        size: of the picture; nothing for what has none.
        bound: of the ratio, or of the figure where it is to no other.
        peer: whose figure it is divided by.
        other: the figure it is divided by, where that is another one.
        at_least: larger is better.
    """

    figure: str
    size: str
    bound: float
    peer: str = ""
    other: str = ""
    at_least: bool = False


PEERS = ("llama.cpp", "OpenVINO", "torch bf16")
TARGETS = (
    Target("decode tokens/s", SMALL, 1.0, "llama.cpp", at_least=True),
    Target("decode tokens/s", SMALL, 1.35, "OpenVINO", at_least=True),
    Target("first token s", SMALL, 0.5, "llama.cpp"),
    Target("first token s", SMALL, 1.0, "OpenVINO"),
    Target("first token s", SMALL, 0.75, "torch bf16"),
    Target("image encode s", LARGE, 0.5, "llama.cpp"),
    Target("image encode s", LARGE, 1.2, "OpenVINO"),
    Target("second question s", SMALL, 0.1, "vlrt", "first token s"),
    Target("peak RSS MB", SMALL, 2200),
    *(Target("peak RSS MB", SMALL, 0.65, peer) for peer in PEERS),
    Target("load s", SMALL, 1.0),
    Target("export s", ALL, 0.1, "OpenVINO"),
    Target("export s", ALL, 0.3, "llama.cpp"),
    Target("export private MB", ALL, 0.1, "OpenVINO"),
    Target("export private MB", ALL, 0.1, "llama.cpp"),
)


@dataclass(frozen=True)
class Verdict:
    """A target with what was reached; None where a figure is missing."""

    target: Target
    reached: float | None

    @property
    def met(self) -> bool | None:
        """Whether it was reached; None where that is not known."""
        if self.reached is None:
            return None
        if self.target.at_least:
            return self.reached >= self.target.bound
        return self.reached <= self.target.bound

    def __str__(self) -> str:
        """One line."""
        target = self.target
        over = f" / {target.peer}" + (f" {target.other}" if target.other else "")
        what = target.figure + (f", {target.size}" if target.size else "")
        reached = "-" if self.reached is None else _short(self.reached)
        bound = f"at {'least' if target.at_least else 'most'} {target.bound:g}"
        words = {True: "met", False: "NOT MET", None: "not measured"}
        return f"{what}{over if target.peer else ''}: {reached}, {bound}: {words[self.met]}"


def verdicts(figures: Figures) -> Iterator[Verdict]:
    """Of every target."""
    for target in TARGETS:
        reached = figures.get(("vlrt", target.size), {}).get(target.figure)
        if target.peer and reached is not None:
            row = figures.get((target.peer, target.size), {})
            over = row.get(target.other or target.figure)
            reached = reached / over if over else None
        yield Verdict(target, reached)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
