"""Options of `vlrt bench`."""

from __future__ import annotations

import argparse

__all__ = ["add_options"]


def add_options(command: argparse.ArgumentParser) -> None:
    """All of them; lists are separated by commas, and every combination is measured."""
    add = command.add_argument
    add("packages", metavar="PACKAGE", nargs="*", help="one or more; demo is the model in the box")
    add("--image-size", metavar="WxH,...", help="drawn pictures; none is text alone (500x336)")
    add("--image", metavar="FILE", action="append", default=[], help="a picture; may be repeated")
    add("--prompt-tokens", metavar="N,...", help="of text, template included (a short question)")
    add("--new-tokens", metavar="N,...", default="64", help="ids to decode (default: 64)")
    add("--threads", metavar="N,...", help="such as 1,2,4 or 1-4 (default: all)")
    add("--device", metavar="D,...", default="auto", help="auto, cpu, cuda (default: auto)")
    add("--bound", type=float, default=0.02, metavar="S", help=(
        "steady: half of the median's 95 %% interval is at most this share of it (default: 0.02)"
    ))  # fmt: skip
    add("--min-runs", type=int, default=6, metavar="N", help="of a row (default: 6)")
    add("--max-runs", type=int, default=100, metavar="N", help="of a row (default: 100)")
    add("--max-seconds", type=float, default=60.0, metavar="S", help="of a row (default: 60)")
    add("--loads", type=int, default=3, metavar="N", help="openings, cold and warm (default: 3)")
    add("--no-probe", action="store_true", help="do not measure what the machine can do")
    add("--caches", action="store_true", help=(
        "each row again, as a second question about the same picture"
    ))  # fmt: skip
    add("--sweep", action="store_true", help=(
        "threads 1 to N, then picture sizes, then prompt lengths, one at a time"
    ))  # fmt: skip
    add("--format", choices=("table", "md", "csv", "json", "jsonl"), default="table")
    add("-o", "--output", metavar="FILE", help="also write the JSON there")
    add("--report", metavar="FILE", help="also write a page with pictures, one HTML file")
    add("--compare", nargs=2, metavar=("A.json", "B.json"), help="two files measured before")
    add("--fail-slower", metavar="SHARE", help=(
        "exit status 3 if B is shown slower by more, such as 5%%"
    ))  # fmt: skip
