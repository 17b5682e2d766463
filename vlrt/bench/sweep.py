"""How cost grows: with threads, with picture pixels, with the prompt; and which threads to take."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlrt.bench.record import Case, Record, Row
from vlrt.bench.stats import ratio

__all__ = ["encode_fit", "print_sweep", "prompt_fit", "recommended_threads", "sweep_lists"]

SIZES = ["224x224", "336x336", "448x448", "672x672", "896x896"]
PROMPTS = [64, 256, 512, 1024]
NEARLY = 1.03  # fewer threads are worth 3 % of time: the rest of the machine is left alone


def sweep_lists(packages: list[str], lists: dict[str, Any]) -> list[Case]:
    """One list at a time, the others at their first item, without doubles."""
    most = max(lists["threads"])
    images = lists["images"] if len(lists["images"]) > 1 else SIZES
    prompts = lists["prompt_tokens"] if len(lists["prompt_tokens"]) > 1 else PROMPTS
    new = lists["new_tokens"][0]
    found: list[Case] = []
    for package in packages:
        for device in lists["devices"]:
            found += [Case(package, device, n, images[0], None, new) for n in _thread_counts(most)]
            found += [Case(package, device, most, image, None, new) for image in images]
            found += [Case(package, device, most, "none", prompt, new) for prompt in prompts]
    return list(dict.fromkeys(found))


def _thread_counts(most: int) -> list[int]:
    """All up to eight; beyond that about every eighth part, and the last."""
    step = max(1, most // 8)
    return sorted({1, *range(step, most + 1, step), most})


def encode_fit(rows: list[Row]) -> tuple[float, float, float] | None:
    """Non-negative a, b of ms = a n + b n^2 over encoder rows n, and the largest relative miss.

    Matrix products cost a n, attention b n^2. Relative errors are minimised, so that small
    pictures count as much as large ones. None with fewer than three sizes.
    """
    points = {
        row.counts["encoder_rows"]: row.summaries()["encode"].median
        for row in rows
        if "encode" in row.summaries()
    }
    return _fit(points)


def prompt_fit(rows: list[Row]) -> tuple[float, float, float] | None:
    """The same of prefill, over prompt tokens."""
    points = {
        row.counts["prompt_tokens"]: row.summaries()["prefill"].median
        for row in rows
        if "prefill" in row.summaries()
    }
    return _fit(points)


def _fit(points: dict[int, float]) -> tuple[float, float, float] | None:
    if len(points) < 3:
        return None
    n = np.array(list(points), np.float64)
    ms = np.array(list(points.values()))
    form = np.stack([n / ms, n * n / ms], 1)  # of 1, that is: relative errors
    (a, b), *_ = np.linalg.lstsq(form, np.ones_like(ms), rcond=None)
    if a < 0 or b < 0:  # the best with one of them at its bound
        single = [(float(c.sum() / (c * c).sum()), i) for i, c in enumerate(form.T)]
        a, b = min(
            ((v, 0.0) if i == 0 else (0.0, v) for v, i in single),
            key=lambda ab: float(((form @ np.array(ab) - 1) ** 2).sum()),
        )
    miss = float(np.abs(form @ np.array([a, b]) - 1).max())
    return float(a), float(b), miss


def recommended_threads(rows: list[Row]) -> int | None:
    """The fewest that are within 3 % of the quickest whole answer."""
    totals = {row.case.threads: row.summaries()["total"].median for row in rows if row.runs}
    if not totals:
        return None
    return min(n for n, total in totals.items() if total <= NEARLY * min(totals.values()))


def print_sweep(record: Record, console: Any) -> None:
    """A few sentences for each package and device."""
    for package, device in dict.fromkeys((r.case.package, r.case.device) for r in record.rows):
        rows = [r for r in record.rows if (r.case.package, r.case.device) == (package, device)]
        rows = [r for r in rows if r.runs]
        for line in findings(rows):
            console.print(line, highlight=False, markup=False)


def findings(rows: list[Row]) -> list[str]:
    """What a sweep of one package on one device has shown."""
    if not rows:
        return []
    most = max(row.case.threads for row in rows)
    first = next(row.case.image for row in rows)
    lines: list[str] = []
    threads = [r for r in rows if r.case.image == first and r.case.prompt_tokens is None]
    if len({r.case.threads for r in threads}) > 1 and (best := recommended_threads(threads)):
        lines.append(f"threads: take {best} (fewest within 3 % of the quickest answer)")
    full = [r for r in rows if r.case.threads == most]
    for what, unit, fit in (
        ("encode", "encoder rows", encode_fit([r for r in full if r.case.image != "none"])),
        ("prefill", "prompt tokens", prompt_fit([r for r in full if r.case.image == "none"])),
    ):
        if fit:
            a, b, miss = fit
            even = f"; both parts are equal at {a / b:.0f}" if b > 0 and a > 0 else ""
            lines.append(
                f"{what}: {a:.4g} n + {b:.3g} n^2 ms for n {unit}, off by at most {miss:.1%}{even}"
            )
    text = {r.counts["prompt_tokens"]: r for r in full if r.case.image == "none"}
    if len(text) > 1 and all("tpot" in r.summaries() for r in text.values()):
        low, high = min(text), max(text)
        grown = ratio(text[low].samples("tpot"), text[high].samples("tpot"))
        step = [text[n].summaries()["tpot"].median for n in (low, high)]
        each = (step[1] - step[0]) / (high - low) * 1e3
        if grown.verdict == "slower":
            tail = f"{each:.2g} ms more for every 1,000 of context"
        else:
            tail = "no growth with context shown"
        lines.append(
            f"decode: {step[0]:.3g} ms an id after {low} tokens, {step[1]:.3g} after {high}: {tail}"
        )
    return lines
