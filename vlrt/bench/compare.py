"""Two benchmarks against each other: a ratio for every figure, and how sure it is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlrt.bench.record import FIGURES, Record, Row
from vlrt.bench.stats import Ratio, ratio
from vlrt_runtime.errors import InputError

__all__ = ["Difference", "compare", "fraction", "remarks"]

LEFT_OUT = ("token",)  # ids of one run are not independent; `tpot` stands for them


@dataclass(frozen=True)
class Difference:
    """One figure of one row, in both files; ms are medians, `ratio` is b / a."""

    row: str
    figure: str
    a: float
    b: float
    ratio: Ratio

    def fails(self, slower: float) -> bool:
        """Whether b is shown to be slower, and by more than that share."""
        return self.ratio.verdict == "slower" and self.ratio.estimate > 1 + slower


def compare(a: Record, b: Record) -> list[Difference]:
    """Of every row in both; where each file has one package, its name may differ.

    Raises:
        InputError: no row is in both.
    """
    return [
        Difference(name, figure, left[figure].median, right[figure].median, r)
        for name, row_a, row_b in _pairs(a, b)
        for figure in FIGURES
        if figure not in LEFT_OUT
        and figure in (left := row_a.summaries())
        and figure in (right := row_b.summaries())
        and (r := ratio(row_a.samples(figure), row_b.samples(figure)))
    ]


def remarks(a: Record, b: Record) -> list[str]:
    """What makes the comparison less than fair, or the answers differ."""
    said = [
        f"{key}: {a.environment.get(key)} against {b.environment.get(key)}"
        for key in ("cpu", "cores", "os", "vlrt", "versions")
        if a.environment.get(key) != b.environment.get(key)
    ]
    for name, row_a, row_b in _pairs(a, b):
        if row_a.counts != row_b.counts:
            said.append(f"{name}: not the same work: {row_a.counts} against {row_b.counts}")
        elif row_a.digest != row_b.digest:
            same = row_a.package_sha256 == row_b.package_sha256
            why = "the package is the same, so they should not" if same else "packages differ"
            said.append(f"{name}: greedy answers differ; {why}")
    return said


def fraction(text: str) -> float:
    """`5%` or `0.05` as 0.05.

    Raises:
        InputError: it is neither.
    """
    if not re.fullmatch(r"\d+(\.\d+)?%?", text):
        raise InputError(f"{text!r}: expected a share such as 5% or 0.05")
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _pairs(a: Record, b: Record) -> list[tuple[str, Row, Row]]:
    one = all(len({row.case.package for row in record.rows}) == 1 for record in (a, b))

    def keyed(record: Record) -> dict[str, Row]:
        keys: dict[str, Row] = {}
        for row in record.rows:
            c = row.case
            prompt = f", prompt {c.prompt_tokens}" if c.prompt_tokens else ""
            name = f"{c.image}{prompt}, {c.new_tokens} new, {c.threads} threads, {c.device}"
            name += ", cached" * c.caches
            keys[name if one else f"{c.package}: {name}"] = row
        return keys

    left, right = keyed(a), keyed(b)
    if not (both := [name for name in left if name in right]):
        raise InputError(
            "--compare: no row is in both files; expected the same sizes, lengths, threads and "
            "devices, measure with the same options"
        )
    return [(name, left[name], right[name]) for name in both]
