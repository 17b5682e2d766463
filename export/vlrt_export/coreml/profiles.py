"""The two ways to lower a graph, by what Apple's processors are good at.

gpu: rows and matrices; wide parts stay in float32.
ane: the Neural Engine wants channels in front, [1, C, 1, S], convolutions of 1 x 1 for matrices,
float16 alone and small programs: https://machinelearning.apple.com/research/neural-engine-transformers
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PROFILES", "Profile"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What rules choose by.

    Attributes:
        name: gpu or ane.
        channels: activations are [1, C, 1, S] and matrices convolutions.
        wide: float32 parts of a graph stay so.
        widest: rows of a matrix in one piece.
        largest: weights in one piece: what coremltools copies, a few times over, to write it.
        program_bytes: of weights, for a program of the decoder.
        context: positions of the cache: every step reads all of them.
        prefill_rows: positions that a prompt is read at a time.
        query_rows: rows of an encoder that attend at a time, so that scores stay small.
    """

    name: str
    channels: bool
    wide: bool
    widest: int
    largest: int = 1 << 27
    program_bytes: int
    context: int
    prefill_rows: int
    query_rows: int = 1024


PROFILES = {
    "gpu": Profile(
        name="gpu",
        channels=False,
        wide=True,
        widest=1 << 30,
        program_bytes=1 << 62,
        context=2048,
        prefill_rows=128,
    ),
    # 16384: the longest axis it takes. Larger programs silently run on the GPU:
    # https://github.com/john-rocky/CoreML-LLM/blob/main/docs/DECODE_STATE_LAYOUTS.md
    "ane": Profile(
        name="ane",
        channels=True,
        wide=False,
        widest=16384,
        program_bytes=900_000_000,
        context=1024,
        prefill_rows=64,
    ),
}
