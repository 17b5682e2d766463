"""What to measure: every combination of the lists, checked before anything runs."""

from __future__ import annotations

import re
from io import BytesIO
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from vlrt.bench.record import Case
from vlrt_runtime.cores import usable_cores
from vlrt_runtime.errors import ContextLengthError, InputError
from vlrt_runtime.image import load_image
from vlrt_runtime.model import Model

__all__ = ["ANOTHER", "QUESTION", "cases", "checked", "picture_bytes", "prompt_of"]

QUESTION = "Describe this picture."
ANOTHER = "What is the first thing one sees?"  # asked before, where caches are measured
SIZE = re.compile(r"(\d+)x(\d+)")
LARGEST = 1 << 14  # pixels a side
NONE = "none"


def cases(
    packages: list[str],
    *,
    images: list[str],
    prompt_tokens: list[int] | list[None],
    new_tokens: list[int],
    threads: list[int],
    devices: list[str],
    caches: bool = False,
) -> list[Case]:
    """Every combination, packages outermost; where `caches`, each without and with them."""
    with_caches = (False, True) if caches else (False,)
    rows = product(packages, devices, threads, images, prompt_tokens, new_tokens, with_caches)
    return [Case(*row) for row in rows]


def checked(case: Case) -> Case:
    """The case with the device that auto stands for; raises what would go wrong later.

    Nothing is loaded but the tokenizer.

    Raises:
        InputError: the case cannot be measured.
    """
    with_picture = case.image != NONE
    if case.threads > (cores := usable_cores()):
        raise InputError(f"--threads {case.threads}: this process may use {cores} cores")
    model = Model(case.package, device=case.device, threads=case.threads, lazy=True)
    if with_picture and "vision_encoder" not in model.manifest.graphs:
        raise InputError(
            f"{case.package}: it has no picture encoder; measure it with --image-size {NONE}"
        )
    if case.new_tokens < 1:
        raise InputError(f"--new-tokens {case.new_tokens}: expected at least 1")
    pictures = [picture_bytes(case.image)] if with_picture else []
    layout, _ = model.prepare(prompt_of(model, case, pictures), pictures)
    length, most = len(layout.token_ids), model.manifest.generation.max_context
    if length + case.new_tokens > most:
        raise ContextLengthError(
            f"{case.package}: {length} prompt and {case.new_tokens} new tokens; the model's "
            f"context is {most}; lower --prompt-tokens or --new-tokens"
        )
    return msgspec.structs.replace(case, device=model.device)


def picture_bytes(image: str) -> bytes:
    """A picture as a file's bytes: the file's own, or a drawn one of that size as JPEG.

    Raises:
        InputError: it is neither a size nor a picture.
    """
    size = SIZE.fullmatch(image)
    if size is None:
        load_image(image)
        return Path(image).read_bytes()
    width, height = int(size[1]), int(size[2])
    if not (1 <= width <= LARGEST and 1 <= height <= LARGEST):
        raise InputError(f"--image-size {image}: expected 1x1 to {LARGEST}x{LARGEST}")
    # Smooth colours, an edge and some noise: a JPEG decoder has about a photograph's work with it.
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 // width, y * 255 // height, np.hypot(x - width / 2, y - height / 2) % 256]
    noise = np.random.default_rng(0).integers(-12, 13, (height, width, 3))
    pixels = np.clip(np.stack(channels, -1) + noise, 0, 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def prompt_of(model: Model, case: Case, pictures: list[bytes]) -> str:
    """A question of about `prompt_tokens` tokens of text, template included, pictures not.

    Raises:
        InputError: the shortest question is longer.
    """
    wanted = case.prompt_tokens
    if wanted is None:
        return QUESTION

    def length(words: int) -> int:
        layout, prepared = model.prepare(_question(words), pictures)
        return len(layout.token_ids) - sum(picture.tokens for picture in prepared)

    least = length(0)
    if wanted < least:
        raise InputError(
            f"--prompt-tokens {wanted}: the template and a question of one word take {least}"
        )
    low, high = 0, 1 + wanted - least  # a word is at least a token
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if length(middle) <= wanted else (low, middle)
    return _question(low)


def _question(words: int) -> str:
    return "Describe" + " the" * words
