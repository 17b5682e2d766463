"""Times a package on a GPU against transformers (torch, float16, sdpa) on the same checkpoint.

    python benchmarks/make_checkpoint.py qwen2-vl-2b /tmp/qwen2-vl-2b
    python benchmarks/cuda.py /tmp/qwen2-vl-2b --precision fp16 --precision int4

Needs an NVIDIA GPU, onnxruntime-gpu, and torch with CUDA. Everyone answers in turn, round by round,
each round with a picture and a question of its own, so that nothing can be remembered; time to
first token is from the file's bytes. Medians, and ratios of medians; one JSON line last.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import vlrt
from vlrt.verify.reference import load_reference
from vlrt_runtime.manifest import read_manifest

Measure = Callable[[bytes, str, int], dict[str, float]]


def missing() -> list[str]:
    """What this machine lacks for the benchmark, in words."""
    lacks: list[str] = []
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        lacks.append(
            f"onnxruntime {onnxruntime.__version__} has no CUDAExecutionProvider: "
            "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    try:
        import torch
    except ModuleNotFoundError:
        return [*lacks, "torch is not installed: pip install 'vlrt[test]'"]
    if torch.version.cuda is None:
        lacks.append(f"torch {torch.__version__} is built without CUDA")
    elif not torch.cuda.is_available():
        lacks.append("torch finds no CUDA device: check the driver with nvidia-smi")
    return lacks


def vlrt_on(device: str, package: Path) -> Measure:
    """Answers of a package."""
    model = vlrt.load(package, device=device)

    def measure(picture: bytes, question: str, new_tokens: int) -> dict[str, float]:
        answer = model.generate(question, images=[picture], max_new_tokens=new_tokens)
        return {"ttft_ms": answer.timings.ttft, "tpot_ms": answer.timings.tpot}

    return measure


def transformers_on(device: str, checkpoint: Path, family: str) -> Measure:
    """Answers of transformers in float16 with torch's scaled dot product attention."""
    import torch
    from transformers.generation import BaseStreamer

    class Clock(BaseStreamer):
        """Notes when tokens come; reading one waits for the device."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: Any) -> None:
            value.cpu()
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    reference = load_reference(checkpoint, family)
    for parameter in reference.model.parameters():  # and no buffers: rotary angles stay float32
        parameter.data = parameter.data.to(torch.float16)
    reference.model.to(device)

    def placed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(device, torch.float16 if value.is_floating_point() else None)

    def measure(picture: bytes, question: str, new_tokens: int) -> dict[str, float]:
        started = time.perf_counter()
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        content = [{"type": "image"}, {"type": "text", "text": question}]
        inputs = reference.inputs([{"role": "user", "content": content}], [image])
        arguments = reference.arguments(inputs, inputs.token_ids)
        arguments = {name: placed(value) for name, value in arguments.items()}
        clock = Clock()
        with torch.inference_mode():
            reference.model.generate(
                **arguments, max_new_tokens=new_tokens, do_sample=False, streamer=clock
            )
        _, first, *rest = clock.times  # the prompt comes first of all
        return {
            "ttft_ms": (first - started) * 1e3,
            "tpot_ms": (rest[-1] - first) * 1e3 / len(rest) if rest else 0.0,
        }

    return measure


def picture(serial: int, width: int, height: int) -> bytes:
    """A PNG file of smooth random colours, another one for each number."""
    seeds = np.random.default_rng(serial).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(seeds).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def compare(contestants: dict[str, Measure], args: argparse.Namespace) -> dict[str, Any]:
    """Medians by contestant and, for each but the last, ratios to the last."""
    width, height = map(int, args.size.split("x"))
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for serial in range(args.rounds + 1):
        question = f"Question {serial}: describe this picture."
        for name, measure in contestants.items():
            figures = measure(picture(serial, width, height), question, args.new_tokens)
            if serial:  # the first round warms up
                taken[name].append(figures)
    medians = {
        name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for name, rounds in taken.items()
    }
    *ours, peer = medians
    return {
        "medians": medians,
        "ratios": {
            name: {
                "ttft": medians[name]["ttft_ms"] / medians[peer]["ttft_ms"],
                "tokens_per_s": medians[peer]["tpot_ms"] / medians[name]["tpot_ms"],
            }
            for name in ours
        },
    }


@contextmanager
def packages(args: argparse.Namespace) -> Iterator[dict[str, Path]]:
    """A package for each precision asked for, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="vlrt-cuda-") as scratch:
        yield {
            kind: vlrt.export(args.checkpoint, Path(scratch) / kind, precision=kind, device="cuda")
            for kind in args.precision or ["fp16", "int4"]
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--precision", action="append", help="may be repeated (default: fp16 and int4)"
    )
    parser.add_argument("--size", default="500x336", help="of the pictures")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if lacks := missing():
        raise SystemExit("\n".join(["not run, this machine lacks:", *(f"  {it}" for it in lacks)]))
    import torch

    with packages(args) as made:
        family = read_manifest(next(iter(made.values()))).family
        contestants = {f"vlrt {kind}": vlrt_on("cuda", path) for kind, path in made.items()}
        contestants["transformers fp16"] = transformers_on("cuda", args.checkpoint, family)
        figures = compare(contestants, args)
    figures["machine"] = torch.cuda.get_device_name()
    figures["versions"] = {name: version(name) for name in ("torch", "transformers")}
    for name, row in figures["medians"].items():
        speed = 1e3 / row["tpot_ms"]
        ratio = figures["ratios"].get(name)
        against = (
            f"; {ratio['ttft']:.2f} x the time, {ratio['tokens_per_s']:.2f} x the speed"
            if ratio
            else ""
        )
        print(f"{name:20} {row['ttft_ms']:8.1f} ms to first token, {speed:7.1f} tokens/s{against}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
