"""Options of `vlrt serve`."""

from __future__ import annotations

import argparse

__all__ = ["add_options"]


def add_options(command: argparse.ArgumentParser) -> None:
    """All but those of the device."""
    add = command.add_argument
    add("package", metavar="PACKAGE", help="demo is the model in the box")
    add("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    add("--port", type=int, default=8000, help="0 takes any that is free (default: 8000)")
    add("--name", help="what clients call the model (default: the package's name)")
    add("--api-key-file", metavar="FILE", help=(
        "requests must carry the key in it (or in the environment's VLRT_API_KEY)"
    ))  # fmt: skip
    add("--no-key", action="store_true", help="let other machines in without a key")
    add("--allow-host", metavar="NAME", action="append", default=[], help=(
        "a name that requests may call this server by; may be repeated"
    ))  # fmt: skip
    add("--allow-origin", metavar="ORIGIN", action="append", default=[], help=(
        "a web page that may use it, such as https://app.example; may be repeated"
    ))  # fmt: skip
    add("--allow-picture-urls", action="store_true", help="fetch pictures that requests point to")
    add("--picture-folder", metavar="DIR", help="requests may name files in it as pictures")
    add("--queue", type=int, default=16, metavar="N", help=(
        "requests that may wait; more are told to come back later (default: 16)"
    ))  # fmt: skip
    add("--parallel", type=int, default=1, metavar="N", help="answered at once (default: 1)")
    add("--max-tokens", type=int, default=1024, metavar="N", help=(
        "of an answer at most, and where a request does not say (default: 1024)"
    ))  # fmt: skip
    add("--max-body", type=int, default=32, metavar="MB", help="of a request (default: 32)")
    add("--max-pictures", type=int, default=8, metavar="N", help="of a request (default: 8)")
    add("--grace", type=float, default=10.0, metavar="S", help=(
        "for answers to end when the server is stopped (default: 10)"
    ))  # fmt: skip
