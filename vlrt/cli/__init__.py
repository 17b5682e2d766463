"""The command line: `vlrt demo`, `export`, `run`, `chat`, `serve`, `inspect`, `verify`, ...

Exit status: 0 done; 2 the user's mistake, told in one line; 1 a fault. `--debug` shows where it
came from. Handlers import what they need when they run, so that `vlrt --help` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlrt.cli import answer_options, bench_options, chat_options, serve_options
from vlrt.cli.errors import fail, tell
from vlrt_runtime.version import __version__

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]

__all__ = ["main", "parser"]

PRECISIONS = ("fp32", "fp16", "int8", "int4")
DEVICES = ("auto", "cpu", "cuda", "coreml", "mil-interpreter")
QUANTIZERS = ("rtn", "mse", "hqq", "gptq")
EPILOG = """\
SOURCE is a short name (see `vlrt models`), a hub id (owner/name) or a folder.
PACKAGE is a folder that `vlrt export` made, or the name of one made before.
"""


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="vlrt",
        description="Vision-language models on your own machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vlrt {__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_export(commands)
    _add_run(commands)
    _add_inspect(commands)
    _add_verify(commands)
    _add_demo(commands)
    chat = commands.add_parser("chat", help="talk about pictures in a terminal, or over a pipe")
    chat_options.add_options(chat)
    answer_options.add_options(chat)
    _add_device(chat)
    serve = commands.add_parser("serve", help="answer over HTTP, as OpenAI's API does")
    serve_options.add_options(serve)
    _add_device(serve)
    bench_options.add_options(commands.add_parser("bench", help="measure packages on this machine"))
    models = commands.add_parser("models", help="list the models known by a short name")
    models.add_argument("--json", action="store_true", help="print one JSON object")
    cache = commands.add_parser("cache", help="show or clear prepacked weights")
    cache.add_argument("--clear", action="store_true", help="remove them all")
    cache.add_argument("--json", action="store_true", help="print one JSON object")
    for command in commands.choices.values():  # so that it may stand at the end as well
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    args = parser().parse_args(argv)
    _write_utf8()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            handler = importlib.import_module(f"vlrt.cli.{args.command}")
            status = handler.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except BrokenPipeError:  # the reader of a pipe has gone; nobody is left to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  whatever it is, it is told and not thrown
        return tell(error, debug=args.debug)
    return int(status)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print("vlrt: note: " + " ".join(str(message).split()), file=sys.stderr)


def _write_utf8() -> None:
    """Answers hold any character; a pipe on Windows takes a few hundred unless it is told."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and sys.stdout.encoding.lower() != "utf-8":
        reconfigure(encoding="utf-8")


def _add_export(commands: Commands) -> None:
    command = commands.add_parser("export", help="turn a checkpoint into a package")
    command.add_argument("source", metavar="SOURCE", help="short name, hub id or folder")
    command.add_argument(
        "-o", "--output", metavar="DIR", help="the package's folder (default: the user's cache)"
    )
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of all matrices; int4 is for the decoder and leaves vision and projector at int8, at "
        "fp16 for CUDA and Core ML (default: int4; int8 for --profile ane)",
    )
    for part in ("vision", "projector", "decoder"):
        command.add_argument(f"--{part}", choices=PRECISIONS, help=f"precision of the {part}")
    command.add_argument(
        "--embedding",
        choices=("source", "fp32", "fp16", "int8"),
        default="source",
        help="precision of the embedding table (default: source, as the checkpoint has it)",
    )
    command.add_argument(
        "--block-size",
        type=int,
        choices=(16, 32, 64, 128, 256),
        help="weights that share a scale in int8 and int4 (default: 128; 32 for Core ML)",
    )
    command.add_argument(
        "--accuracy-level",
        type=int,
        default=4,
        choices=range(5),
        help="of int8 and int4 on the CPU: 4 is fastest, 0 computes with float32 (default: 4)",
    )
    command.add_argument(
        "--quantizer",
        choices=QUANTIZERS,
        help="how int8 and int4 are made (default: mse; gptq with --calibrate)",
    )
    command.add_argument(
        "--calibrate",
        metavar="FOLDER",
        help="pictures like those the model will see (up to 32): gptq makes weights for them",
    )
    command.add_argument("--revision", help="branch, tag or commit on the hub")
    command.add_argument(
        "--vision-tower",
        metavar="SOURCE",
        help="where SOURCE is a language model alone: the vision tower's folder or hub id",
    )
    command.add_argument(
        "--projector-file", metavar="FILE", help="and the projector's weights (.safetensors, .bin)"
    )
    command.add_argument(
        "--target",
        choices=("onnx", "coreml"),
        default="onnx",
        help="kind of graphs (default: onnx)",
    )
    command.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="to export ONNX for (default: cpu)",
    )
    command.add_argument(
        "--profile",
        choices=("gpu", "ane"),
        help="to export Core ML for: Apple's GPU, or the Neural Engine (default: gpu)",
    )
    command.add_argument(
        "--image-size",
        metavar="WxH",
        type=_size,
        nargs="+",
        default=(),
        help="sizes of pictures that Core ML takes, for models that take several",
    )
    command.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="positions of Core ML's cache (default: 2048; 1024 for --profile ane)",
    )
    command.add_argument("--force", action="store_true", help="replace an existing package")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected WIDTHxHEIGHT, as 448x448") from None


def _add_run(commands: Commands) -> None:
    command = commands.add_parser("run", help="answer a prompt about pictures")
    command.add_argument("package", metavar="PACKAGE")
    command.add_argument("prompt", metavar="PROMPT", help="the question; - reads standard input")
    command.add_argument(
        "--image", metavar="FILE", action="append", default=[], help="a picture; may be repeated"
    )
    command.add_argument(
        "--video", metavar="FILE", action="append", default=[], help="a video; may be repeated"
    )
    command.add_argument(
        "--fps", type=float, metavar="F", help="frames to take of a second of video (default: 2)"
    )
    command.add_argument(
        "--max-frames", type=int, metavar="N", help="frames to take of a video (default: 64)"
    )
    command.add_argument(
        "--max-new-tokens", type=int, default=256, metavar="N", help="(default: 256)"
    )
    command.add_argument("--raw", action="store_true", help="PROMPT is the whole text, no template")
    command.add_argument(
        "--speculate",
        action="store_true",
        help="guess text that repeats, and check several tokens at once: the same answer, sooner",
    )
    answer_options.add_options(command)
    command.add_argument(
        "--annotate", metavar="FILE", help="write the first picture with the answer's boxes on it"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--stats", action="store_true", help="timings and memory, on stderr")
    _add_device(command)


def _add_inspect(commands: Commands) -> None:
    command = commands.add_parser("inspect", help="show what is in a package")
    command.add_argument("package", metavar="PACKAGE")
    command.add_argument("--check", action="store_true", help="compare every file's SHA-256")
    command.add_argument("--json", action="store_true", help="print one JSON object")


def _add_verify(commands: Commands) -> None:
    command = commands.add_parser(
        "verify",
        help="compare a package with its checkpoint",
        description="Compares a package's own files (prepacked weights are neither used nor made) "
        "with its checkpoint, which transformers runs.",
    )
    command.add_argument("package", metavar="PACKAGE")
    command.add_argument(
        "--against", metavar="CHECKPOINT", required=True, help="folder, short name or hub id"
    )
    command.add_argument("--image", metavar="FILE", help="a picture (default: a drawn one)")
    command.add_argument("--prompt", default="Describe this image.", help="the question")
    command.add_argument(
        "--max-new-tokens", type=int, default=32, metavar="N", help="(default: 32)"
    )
    command.add_argument("--write", action="store_true", help="keep the figures in the manifest")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    _add_backend(command)
    command.add_argument("--threads", type=int, metavar="N", help="cores (default: all)")


def _add_demo(commands: Commands) -> None:
    command = commands.add_parser("demo", help="ask the small model that comes with vlrt")
    command.add_argument("--image", metavar="FILE", help="your own picture of drawn shapes")
    command.add_argument(
        "-o", "--output", metavar="FILE", help="the picture with boxes (default: the user's cache)"
    )


def _add_backend(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", choices=DEVICES, help="(default: auto)")
    command.add_argument(
        "--compute-units",
        choices=("cpu-and-gpu", "cpu-and-ne", "all", "cpu"),
        help="of --device coreml (default: what the package was made for)",
    )
    command.add_argument(
        "--mil-precision",
        choices=("fp32", "declared"),
        default="fp32",
        help="of --device mil-interpreter: exact, or rounded as on a device (default: fp32)",
    )


def _add_device(command: argparse.ArgumentParser) -> None:
    _add_backend(command)
    command.add_argument("--threads", type=int, metavar="N", help="cores (default: all)")
    for limit in ("min", "max"):
        command.add_argument(
            f"--{limit}-pixels",
            type=int,
            metavar="N",
            help=f"{limit}imum area a picture is scaled to (default: the package's)",
        )
    command.add_argument(
        "--no-cache", action="store_true", help="neither use nor make prepacked weights"
    )
