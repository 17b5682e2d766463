"""What each quantiser loses and how long it takes, on matrices that are made to be hard.

    python -m benchmarks.quantizers --rows 512 --columns 1536

Weights are drawn from Student's t (few values far out), or normal with a few columns ten times as
large; inputs are correlated and of very different sizes, as those of a trained model are. Figures,
all relative: the root of the squared error of the weights; the mean of |error|^0.7; the root of the
squared error of the outputs, on inputs that calibration has not seen. Time is of one thread, a
weight. Prints a table, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from vlrt_export.quantize import dequantize
from vlrt_export.quantizers import QUANTIZERS
from vlrt_export.quantizers.gptq import Gram

BLOCKS = (32, 64, 128)
WEIGHTS = ("student-t", "outlier columns", "normal")
GROUPS = {"gptq": 2048, "gptq, groups of 256": 256}


def weights(kind: str, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """A matrix [rows, columns] about as large as those of a trained model."""
    if kind == "student-t":
        return (rng.standard_t(4, (rows, columns)) * 0.02).astype(np.float32)
    made = rng.normal(0, 0.02, (rows, columns)).astype(np.float32)
    if kind == "outlier columns":
        made[:, rng.choice(columns, columns // 128, replace=False)] *= 10
    return made


class Inputs:
    """Correlated inputs: a quarter as many sources as columns, of log-normal sizes, and noise."""

    def __init__(self, columns: int, rng: np.random.Generator) -> None:
        sources = columns // 4
        sizes = np.exp(rng.normal(0, 1, (1, sources)))
        self._mix = (rng.normal(0, 1, (columns, sources)) * sizes).astype(np.float32)
        self._rng = rng

    def draw(self, count: int) -> np.ndarray:
        """Inputs [count, columns]."""
        columns, sources = self._mix.shape
        drawn = self._rng.normal(0, 1, (count, sources)).astype(np.float32)
        noise = self._rng.normal(0, 3, (count, columns)).astype(np.float32)
        return drawn @ self._mix.T + noise


def measure(
    name: str, weight: np.ndarray, inputs: np.ndarray, bits: int, block: int, **seen: Any
) -> dict[str, Any]:
    """One quantiser on one matrix."""
    quantizer = QUANTIZERS[name.split(",")[0]]
    rows = max(1, quantizer.elements // weight.shape[1])
    started, made = time.thread_time(), []
    for start in range(0, len(weight), rows):
        part = weight[start : start + rows]
        quantized = quantizer.make(part, bits=bits, block=block, **seen)
        made.append((quantized, part.shape[1]))
    seconds = time.thread_time() - started
    back = np.concatenate([dequantize(q, bits=bits, k=k) for q, k in made])
    error = (weight - back).astype(np.float64)
    return {
        "quantizer": name,
        "bits": bits,
        "block": block,
        "weights": float(np.sqrt((error**2).sum() / (weight.astype(np.float64) ** 2).sum())),
        "p-norm": float((np.abs(error) ** 0.7).mean() / (np.abs(weight) ** 0.7).mean()),
        "outputs": float(
            np.sqrt(((inputs @ error.T) ** 2).sum() / ((inputs @ weight.T) ** 2).sum())
        ),
        "ns": seconds / weight.size * 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--columns", type=int, default=1536)
    parser.add_argument("--inputs", type=int, default=8192, help="to calibrate with")
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8))
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    inputs = Inputs(args.columns, rng)
    grams = {name: Gram(args.columns, size) for name, size in GROUPS.items()}
    for _ in range(0, args.inputs, 256):
        drawn = inputs.draw(256)
        for gram in grams.values():
            gram.add(drawn)
    factors = {name: gram.factor() for name, gram in grams.items()}
    unseen, figures = inputs.draw(1024), []
    head = ("quantizer", "block", "weights", "p-norm", "outputs", "ns")
    for kind in WEIGHTS:
        weight = weights(kind, args.rows, args.columns, rng)
        print(f"\n{kind}, {args.bits} bits")
        print("  ".join(f"{cell:>8}" if i else f"{cell:20}" for i, cell in enumerate(head)))
        for block in BLOCKS:
            for name in ("rtn", "mse", "hqq", *GROUPS):
                seen = {"factor": factors[name]} if name in factors else {}
                row = measure(name, weight, unseen, args.bits, block, **seen)
                figures.append({"matrix": kind, **row})
                print(
                    f"{name:20}  {block:8}  {row['weights']:8.5f}  {row['p-norm']:8.5f}  "
                    f"{row['outputs']:8.5f}  {row['ns']:8.1f}"
                )
    print(json.dumps({"rows": args.rows, "columns": args.columns, "figures": figures}))


if __name__ == "__main__":
    main()
