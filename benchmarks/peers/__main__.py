"""vlrt against llama.cpp, OpenVINO GenAI and transformers, in turn, on one checkpoint.

    python -m benchmarks.peers --checkpoint CHECKPOINT --work FOLDER

See README.md beside this file. Prints tables and targets, and one JSON line last; keeps them in
benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import msgspec

from benchmarks.peers.llama_cpp import LlamaCpp
from benchmarks.peers.openvino_peer import OpenVino
from benchmarks.peers.race import Results, Settings, prepare, race
from benchmarks.peers.report import as_json, page, tables, targets
from benchmarks.peers.transformers_peer import Transformers
from benchmarks.peers.vlrt_peer import Vlrt

PEERS = {"vlrt": Vlrt, "llama.cpp": LlamaCpp, "openvino": OpenVino, "torch": Transformers}
SIZE = re.compile(r"[1-9]\d*x[1-9]\d*")
PAGE = Path(__file__).parents[1] / "RESULTS.md"


def main() -> int:
    """Exit status 1 where a peer failed."""
    args = parse_args()
    work: Path = args.work
    settings = Settings(
        args.checkpoint,
        args.threads,
        args.new_tokens,
        dict(zip(args.sizes, args.rounds, strict=True)),
    )
    peers = [PEERS[name](work) for name in args.peers]
    names = [peer.name for peer in peers]
    state = work / "race.json"
    results = read(state) if args.add else Results()
    if not args.add:
        work.mkdir(parents=True, exist_ok=True)
        prepare(peers, settings, results, say, again=args.export_again)
        keep(state, results)
    if args.prepare:
        return report_failures(results)
    race(peers, settings, results, work / "pictures", say)
    keep(state, results)
    print("\n".join([*tables(results, names), *targets(results)]))
    if len(peers) == len(PEERS):
        args.page.write_text(page(results, settings, names), encoding="utf-8")
    else:
        say(f"{args.page.name} is left as it was: not every peer was asked")
    print(json.dumps(as_json(results, settings)))
    return report_failures(results)


def parse_args() -> argparse.Namespace:
    """Options; a size without a number of rounds has as many as the last."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="Qwen2-VL's, a folder")
    parser.add_argument("--work", type=Path, required=True, help="environments and packages: 20 GB")
    parser.add_argument("--peers", type=_words, default=[*PEERS], help=",".join(PEERS))
    parser.add_argument("--sizes", type=_words, default=["500x336", "1280x720"])
    parser.add_argument("--rounds", type=_numbers, default=[3, 1], help="of each size: 3,1")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prepare", action="store_true", help="install and export, then stop")
    parser.add_argument(
        "--add", action="store_true", help="rounds to those in FOLDER; no export, no installation"
    )
    parser.add_argument(
        "--export-again", action="store_true", help="time all exports, not vlrt's alone"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="where the tables are kept")
    args = parser.parse_args()
    if unknown := [name for name in args.peers if name not in PEERS]:
        parser.error(f"--peers {unknown[0]}: expected some of {', '.join(PEERS)}")
    if wrong := [size for size in args.sizes if not SIZE.fullmatch(size)]:
        parser.error(f"--sizes {wrong[0]}: expected WIDTHxHEIGHT, as 500x336")
    if len(args.rounds) > len(args.sizes) or min(args.rounds) < 0:
        parser.error(f"--rounds: expected a number, or one a size, of {len(args.sizes)} sizes")
    if args.new_tokens < 2 or args.threads < 1:
        parser.error("--new-tokens and --threads: expected at least 2 and 1")
    if not (args.checkpoint / "config.json").is_file():
        parser.error(f"--checkpoint {args.checkpoint}: it has no config.json")
    if args.add and not (args.work / "race.json").is_file():
        parser.error(f"--add: {args.work} has no race; run it once without")
    args.rounds += args.rounds[-1:] * (len(args.sizes) - len(args.rounds))
    args.work = args.work.resolve()  # a link to the package is made in it
    return args


def keep(state: Path, results: Results) -> None:
    """Writes what was found for a later `--add`."""
    state.write_bytes(msgspec.json.encode(results))


def read(state: Path) -> Results:
    """What an earlier race found."""
    return msgspec.json.decode(state.read_bytes(), type=Results)


def report_failures(results: Results) -> int:
    """1 where there are some."""
    for peer, reason in results.failures.items():
        say(f"{peer} FAILED: {reason}")
    return 1 if results.failures else 0


def say(line: str) -> None:
    """Progress, apart from the tables."""
    print(line, file=sys.stderr, flush=True)


def _words(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
