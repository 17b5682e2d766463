"""Times export and run of a checkpoint on this machine.

    python benchmarks/latency.py /tmp/qwen2-vl-2b --image photo.jpg --rounds 3

Every figure is of a process of its own, as a user meets it: `vlrt export` once, `vlrt run` as often
as asked, medians. Memory is the peak resident size (mapped files included) and private memory (what
the system would get back): the most of an export, that at the end of a run. Prints a table, and one
JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

POLL = 0.25  # seconds between looks at a process's memory; each stops it for some milliseconds
MEMORY = re.compile(r"memory:\s+(\d+) MB peak, (\d+) MB private")
VLRT = [sys.executable, "-c", "import sys; from vlrt.cli import main; sys.exit(main())"]


def measure_run(command: list[str]) -> tuple[dict[str, Any], dict[str, float]]:
    """What `vlrt run --json --stats` says: looking at its memory meanwhile would slow it down."""
    done = subprocess.run([*command, "--json", "--stats"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = MEMORY.search(done.stderr)
    peak, private = map(float, found.groups()) if found else (float("nan"), float("nan"))
    return json.loads(done.stdout), {"rss_mb": peak, "private_mb": private}


def measure_export(command: list[str]) -> dict[str, float]:
    """Seconds and the most megabytes of a command."""
    started = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    resident = private = 0
    while process.poll() is None:
        try:
            memory = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            break
        resident, private = max(resident, memory.rss), max(private, memory.uss)
        time.sleep(POLL)
    if process.wait():
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "rss_mb": resident / 1e6, "private_mb": private / 1e6}


def picture(folder: Path, size: tuple[int, int]) -> Path:
    """A photograph that comes with scikit-image, at a size."""
    from PIL import Image
    from skimage import data

    path = folder / f"photo-{size[0]}x{size[1]}.jpg"
    Image.fromarray(data.astronaut()).resize(size).save(path, quality=92)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--package", type=Path, help="use this one; no export is timed")
    parser.add_argument("--export", default="", help="further options of vlrt export, in quotes")
    parser.add_argument("--image", type=Path, help="default: a photograph, 500 x 336")
    parser.add_argument("--size", default="500x336", help="of the default photograph")
    parser.add_argument("--prompt", default="Describe this picture.")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="vlrt-latency-"))
    try:
        figures = run(args, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for name, value in figures.items():
        print(f"{name:24} {value:>12.1f}" if isinstance(value, float) else f"{name:24} {value:>12}")
    print(json.dumps(figures))


def run(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Every figure by name."""
    figures: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "onnxruntime": version("onnxruntime"),
    }
    package = args.package
    if package is None:
        package = scratch / "package"
        options = args.export.split()
        made = measure_export(
            [*VLRT, "export", str(args.checkpoint), "-o", str(package), "--force", *options]
        )
        figures |= {f"export_{name}": value for name, value in made.items()}
    figures["package_mb"] = sum(f.stat().st_size for f in package.iterdir()) / 1e6
    size = tuple(map(int, args.size.split("x")))
    image = args.image or picture(scratch, (size[0], size[1]))
    command = [*VLRT, "run", str(package), args.prompt, "--image", str(image)]
    command += ["--max-new-tokens", str(args.new_tokens)]
    command += ["--threads", str(args.threads)] if args.threads else []
    measure_run(command)  # not counted: it brings the package into the page cache
    rounds = [measure_run(command) for _ in range(args.rounds)]
    answers = [answer for answer, _ in rounds]
    if len({tuple(answer["token_ids"]) for answer in answers}) > 1:
        raise SystemExit("the same prompt had different answers")
    for stage in answers[0]["timings_ms"]:
        figures[f"{stage}_ms"] = statistics.median(a["timings_ms"][stage] for a in answers)
    figures["decode_tokens_per_s"] = 1e3 / figures["tpot_ms"]
    for name in ("prompt_tokens", "image_tokens"):
        figures[name] = answers[0][name]
    for name in ("rss_mb", "private_mb"):
        figures[f"run_{name}"] = statistics.median(memory[name] for _, memory in rounds)
    return figures


if __name__ == "__main__":
    main()
