"""The loop of a runner: says how long loading took, then answers a JSON object a line.

Standard library only: runners live in the environment of the peer they run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def serve(open_model: Callable[[], Callable[..., dict[str, Any]]]) -> None:
    """Opens a model, which gives the function that answers; then serves until the input ends."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to the log
    started = time.perf_counter()
    answer = open_model()
    print(json.dumps({"load": time.perf_counter() - started}), file=out)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=out)


class Clock:
    """Notes when ids come, from when the picture is still a file."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.times: list[float] = []

    def tick(self) -> None:
        """An id has come."""
        self.times.append(time.perf_counter())

    def answer(self, *, encode: float | None, prompt_tokens: int | None) -> dict[str, Any]:
        """As the race wants it."""
        return {
            "encode": encode,
            "ttft": self.times[0] - self.start,
            "decode": self.times[-1] - self.times[0],
            "tokens": len(self.times),
            "prompt_tokens": prompt_tokens,
        }
