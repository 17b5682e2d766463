"""Does Core ML run what vlrt exports? One file to run on a Mac; paste what it prints into an issue.

    pip install 'vlrt[coreml,export]' pyobjc-framework-CoreML
    python scripts/macos_smoke.py

Exports the demo model to Core ML, answers a question about its picture on every compute unit, and
compares logits and ids with the interpreter's, which has no Apple code in it. Needs macOS 15.
With --device mil-interpreter it runs anywhere, as a test of itself: then it tells nothing of Apple.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

import vlrt
from vlrt.demo import CHECKPOINT, PICTURE, QUESTIONS
from vlrt_runtime.backends.options import COMPUTE_UNITS

QUESTION = QUESTIONS[0]
NEW_TOKENS = 16


def main() -> int:
    """Prints the report; the exit status is 1 where a unit failed or an id differed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", help="a Core ML package made before (default: the demo model)")
    parser.add_argument("--profile", choices=("gpu", "ane"), default="gpu", help="to export for")
    parser.add_argument("--device", choices=("coreml", "mil-interpreter"), default="coreml")
    args = parser.parse_args()
    if args.device == "coreml" and sys.platform != "darwin":
        parser.error("Core ML runs on macOS only; --device mil-interpreter tests this script")
    with tempfile.TemporaryDirectory() as folder:
        # Compiled anew: what an earlier run left in the cache would hide an error.
        os.environ["VLRT_HOME"] = folder
        package = args.package or _export(Path(folder) / "demo", args.profile)
        expected = _answer(package, device="mil-interpreter", mil_precision="declared")
        units = COMPUTE_UNITS if args.device == "coreml" else (None,)
        rows = [_row(package, args.device, unit, expected) for unit in units]
    print(f"macOS {platform.mac_ver()[0] or 'none'}, {platform.platform()}, {platform.machine()}")
    print(f"Python {platform.python_version()}, vlrt {vlrt.__version__}, by {_binding()}")
    print(f"{'units':12} {'load':>8} {'first':>8} {'a token':>9} {'logits off':>11} ids")
    for row in rows:
        print(_line(row))
    print(json.dumps({"system": platform.platform(), "rows": rows}))
    return 0 if all(row.get("ids_equal") for row in rows) else 1


def _export(folder: Path, profile: str) -> Path:
    options: dict[str, Any] = {"target": "coreml", "profile": profile, "precision": "int8"}
    return vlrt.export(CHECKPOINT, folder, **options)


def _answer(package: Any, **options: Any) -> dict[str, Any]:
    """Ids of the answer, logits of its first token, and how long things took."""
    started = time.perf_counter()
    model = vlrt.load(package, **options)
    layout, pictures = model.prepare(QUESTION, [PICTURE])
    projected = [model.projector(model.encode(picture)) for picture in pictures]
    decoder = model.decoder(projected)
    logits = model.prefill(decoder, layout, model.splice(layout, projected))[-1]
    first = time.perf_counter() - started
    ids, steps, scores = [int(np.argmax(logits))], [], logits.copy()
    while len(ids) < NEW_TOKENS and ids[-1] not in model.manifest.generation.stop_ids:
        before = time.perf_counter()
        ids.append(int(np.argmax(model.step(decoder, layout, ids[-1]))))
        steps.append(time.perf_counter() - before)
    return {
        "load_s": model.load_ms / 1e3,
        "first_s": first,
        "token_ms": 1e3 * statistics.median(steps) if steps else None,
        "ids": ids,
        "logits": scores,
    }


def _row(package: Any, device: str, units: str | None, expected: dict[str, Any]) -> dict[str, Any]:
    try:
        found = _answer(package, device=device, compute_units=units)
    except Exception as error:  # noqa: BLE001  the report is to name what fails, and go on
        traceback.print_exc()
        return {"units": units, "error": f"{type(error).__name__}: {error}"}
    logits = found.pop("logits")
    return {
        "units": units,
        **found,
        "logits_difference": float(np.abs(logits - expected["logits"]).max()),
        "ids_equal": found["ids"] == expected["ids"],
    }


def _line(row: dict[str, Any]) -> str:
    name = row["units"] or "interpreter"
    if "error" in row:
        return f"{name:12} {row['error']}"
    token = "-" if row["token_ms"] is None else f"{row['token_ms']:.1f} ms"
    ids = "equal" if row["ids_equal"] else f"DIFFERENT: {row['ids']}"
    return (
        f"{name:12} {row['load_s']:6.2f} s {row['first_s']:6.2f} s {token:>9} "
        f"{row['logits_difference']:11.2e} {ids}"
    )


def _binding() -> str:
    for name in ("CoreML", "coremltools"):
        if importlib.util.find_spec(name):
            return {"CoreML": "pyobjc"}.get(name, name)
    return "nothing"


if __name__ == "__main__":
    sys.exit(main())
