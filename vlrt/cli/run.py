"""`vlrt run`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import vlrt
from vlrt.cli.answer_options import answer_options
from vlrt.cli.opening import open_model
from vlrt_runtime.errors import InputError
from vlrt_runtime.memory import peak_rss, private
from vlrt_runtime.model import Answer
from vlrt_runtime.stream import interruptible

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    """Answers, streaming the text to stdout or printing one JSON object."""
    prompt = _standard_input() if args.prompt == "-" else args.prompt
    if args.annotate:
        _check_annotate(args)
    options = answer_options(args)
    model = open_model(args, keep_encoder=False)  # nobody asks again
    options |= {
        "images": args.image,
        "videos": [vlrt.Video(path, args.fps, args.max_frames) for path in args.video],
        "max_new_tokens": args.max_new_tokens,
        "raw": args.raw,
        "speculate": args.speculate,
    }
    stream = model.stream(prompt, **options)
    for piece in interruptible(stream):
        if not args.json:
            print(piece, end="", flush=True)
    answer = stream.result()
    print(json.dumps(answer.as_dict(), ensure_ascii=False) if args.json else "")
    if args.annotate:
        _write_annotated(args, answer)
    if args.stats:
        print(statistics(answer), file=sys.stderr)
    return 0


def statistics(answer: Answer) -> str:
    """Timings and memory as lines of text."""
    t, new = answer.timings, len(answer.token_ids)
    rows = [
        ("load", f"{t.load / 1e3:.2f} s"),
        ("preprocess", f"{t.preprocess:.0f} ms"),
        ("encode", f"{t.encode / 1e3:.2f} s, {answer.image_tokens} image tokens"),
        ("project", f"{t.project:.0f} ms"),
        ("prefill", f"{t.prefill / 1e3:.2f} s, {answer.prompt_tokens} prompt tokens"),
        ("first token", f"{t.ttft / 1e3:.2f} s"),
    ]
    if t.tpot:
        rows.append(("decode", f"{1e3 / t.tpot:.1f} tokens/s, {t.tpot:.1f} ms a token"))
    if answer.drafted_tokens:
        counts = f"{answer.accepted_tokens} of {answer.drafted_tokens} tokens accepted"
        rows.append(("drafts", counts))
    if answer.constraint_ms is not None:
        rows.append(("schema", f"{answer.constraint_ms:.2f} ms a token"))
    rows.append(("total", f"{t.total / 1e3:.2f} s, {new} tokens, {answer.finish_reason}"))
    memory = {"peak": peak_rss(), "private": private()}
    known = [f"{size / 1e6:.0f} MB {name}" for name, size in memory.items() if size]
    if known:
        rows.append(("memory", ", ".join(known)))
    return "\n".join(f"{name + ':':12} {value}" for name, value in rows)


def _check_annotate(args: argparse.Namespace) -> None:
    """Refuses before anything is computed what could not be written in the end."""
    from vlrt.cli.drawing import check_drawing

    if not args.image:
        raise InputError("--annotate: there is no picture to draw on; give one with --image")
    check_drawing("--annotate", Path(args.annotate))


def _write_annotated(args: argparse.Namespace, answer: Answer) -> None:
    """Writes the first picture, with boxes where the answer has some for it."""
    from vlrt.cli.drawing import save_drawing
    from vlrt_runtime.image import load_image

    entities = [entity for entity in answer.entities if entity.image == 0]
    if not entities:
        why = "does not say of which picture" if answer.entities else "has none"
        print(f"vlrt: note: {args.annotate} has no boxes: the answer {why}", file=sys.stderr)
    save_drawing(load_image(args.image[0]), entities, Path(args.annotate))


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: not UTF-8 text: {error}") from error
