"""Options of how answers are decoded, for the commands that give some."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vlrt_runtime.errors import InputError

if TYPE_CHECKING:
    from vlrt_runtime.options import Keywords

__all__ = ["add_options", "answer_options"]

MAX_SCHEMA = 1 << 20  # bytes
DRAWN = ("top_k", "top_p", "min_p", "seed")


def add_options(command: argparse.ArgumentParser) -> None:
    """How ids are drawn, where the answer ends, and what it must fit."""
    add = command.add_argument
    add("--temperature", type=float, metavar="T", help=(
        "draw tokens: below 1 surer, above 1 more various (default: 0, always the likeliest)"
    ))  # fmt: skip
    add("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens only")
    add("--top-p", type=float, metavar="P", help="from the likeliest that have P together")
    add("--min-p", type=float, metavar="P", help="from those at least P times the likeliest")
    add("--seed", type=int, metavar="N", help="draw the same again")
    add("--stop", metavar="TEXT", action="append", default=[], help=(
        "end the answer before TEXT; may be repeated"
    ))  # fmt: skip
    add("--json-schema", metavar="FILE", help=(
        "the answer is JSON that fits the schema (pip install 'vlrt[json]')"
    ))  # fmt: skip


def answer_options(args: argparse.Namespace) -> Keywords:
    """The same as keywords of `Model.stream`.

    Raises:
        InputError: a value cannot be used, or the schema's file cannot be read.
    """
    from vlrt_runtime.options import Keywords
    from vlrt_runtime.sampling import Sampling

    given = {name: getattr(args, name) for name in DRAWN if getattr(args, name) is not None}
    if given and not args.temperature:
        option = "--" + next(iter(given)).replace("_", "-")
        raise InputError(f"{option}: nothing is drawn without --temperature, such as 0.7")
    found = Keywords(sampling=Sampling(args.temperature or 0.0, **given), stop=args.stop)
    if args.json_schema is not None:
        found["schema"] = _schema(Path(args.json_schema))
    return found


def _schema(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SCHEMA + 1)
        if len(data) > MAX_SCHEMA:
            raise InputError(f"--json-schema {path}: larger than {MAX_SCHEMA} bytes")
        return data.decode("utf-8")
    except OSError as error:
        raise InputError(f"--json-schema {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--json-schema {path}: not UTF-8 text: {error}") from error
