"""What a generator yields, and what it returns at its end."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

__all__ = ["exhaust"]


def exhaust(generator: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
    ended = []

    def keep() -> Generator[Any]:
        ended.append((yield from generator))

    return list(keep()), ended[0]
