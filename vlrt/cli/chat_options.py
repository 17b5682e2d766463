"""Options of `vlrt chat`."""

from __future__ import annotations

import argparse

__all__ = ["add_options"]


def add_options(command: argparse.ArgumentParser) -> None:
    """Those that other commands do not have as well."""
    add = command.add_argument
    add("package", metavar="PACKAGE", help="demo is the model in the box")
    add("--image", metavar="FILE", action="append", default=[], help=(
        "a picture for the first question; may be repeated"
    ))  # fmt: skip
    add("--system", metavar="TEXT", help="what the model is told before all else")
    add("--load", metavar="FILE", help="go on with a conversation that /save wrote")
    add("--max-new-tokens", type=int, default=512, metavar="N", help=(
        "of an answer (default: 512)"
    ))  # fmt: skip
    add("--stats", action="store_true", help="timings and memory after every answer")
