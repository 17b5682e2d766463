"""`vlrt chat`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlrt.chat.lines import Lines, open_lines
from vlrt.chat.session import COMMANDS, Session
from vlrt.cli.answer_options import answer_options
from vlrt.cli.errors import tell
from vlrt.cli.opening import open_model
from vlrt_runtime.errors import InputError

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    """Talks until the lines end. Over a pipe, the status tells of the last thing that failed."""
    if args.load and args.system is not None:
        raise InputError("--system: a saved conversation has its own; leave out --load, or this")
    defaults = answer_options(args)
    defaults["max_new_tokens"] = args.max_new_tokens
    model = open_model(args)
    lines = open_lines(COMMANDS)
    session = Session(
        model, terminal=lines.terminal, system=args.system, stats=args.stats, defaults=defaults
    )
    if lines.terminal:
        print(f"{model.manifest.name} on {model.device}; /help lists commands", file=sys.stderr)
    if args.load:
        session.go_on(Path(args.load))
    session.add_pictures([Path(image) for image in args.image])
    status = 0
    while not session.ended:
        status = _take_line(session, lines, debug=args.debug) or status
    return 0 if lines.terminal else status


def _take_line(session: Session, lines: Lines, *, debug: bool) -> int:
    """One line, whatever comes of it; returns the exit status that it would have by itself."""
    try:
        session.take(lines.read(session.suggestion))
    except EOFError:
        session.ended = True
    except KeyboardInterrupt:  # at a prompt it ends the line that was being typed
        if not lines.terminal:
            raise
        session.suggestion = ""
        print(file=sys.stderr)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  it is told, and the conversation goes on
        return tell(error, debug=debug)
    return 0
