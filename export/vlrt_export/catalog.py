"""The published checkpoints that vlrt knows by a short name: the rows of `vlrt models`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from vlrt_runtime.errors import CheckpointNotFoundError

__all__ = ["CATALOG", "ModelCard", "find", "lookup", "suggestion"]


@dataclass(frozen=True)
class ModelCard:
    """A published checkpoint.

    Attributes:
        name: the short name, in lower case.
        repo: its repository on the hub, `owner/name`.
        family: the `model_type` of its config.json.
        parameters: numbers in its weights.
        download_bytes: size of its weights as published; the other files add some 10 MB.
        package_bytes: of the weights of a package at int4, as `vlrt export` makes it by default.
        licence: SPDX identifier, or the name that the publisher gives it.
        gated: the hub asks to accept the licence before the first download.
    """

    name: str
    repo: str
    family: str
    parameters: int
    download_bytes: int
    package_bytes: int
    licence: str
    gated: bool = False


CATALOG: tuple[ModelCard, ...] = (
    ModelCard(
        name="qwen2-vl-2b",
        repo="Qwen/Qwen2-VL-2B-Instruct",
        family="qwen2_vl",
        parameters=2_208_985_600,
        download_bytes=4_417_971_200,
        package_bytes=1_963_033_856,
        licence="Apache-2.0",
    ),
    ModelCard(
        name="qwen2-vl-7b",
        repo="Qwen/Qwen2-VL-7B-Instruct",
        family="qwen2_vl",
        parameters=8_291_375_616,
        download_bytes=16_582_751_232,
        package_bytes=5_555_177_472,
        licence="Apache-2.0",
    ),
    ModelCard(
        name="llava-1.5-7b",
        repo="llava-hf/llava-1.5-7b-hf",
        family="llava",
        parameters=7_063_427_072,
        download_bytes=14_126_854_144,
        package_bytes=4_115_190_784,
        licence="Llama 2 Community",
    ),
    ModelCard(
        name="llava-1.5-13b",
        repo="llava-hf/llava-1.5-13b-hf",
        family="llava",
        parameters=13_351_494_656,
        download_bytes=26_702_989_312,
        package_bytes=7_533_873_408,
        licence="Llama 2 Community",
    ),
    ModelCard(
        name="kosmos-2",
        repo="microsoft/kosmos-2-patch14-224",
        family="kosmos-2",
        parameters=1_664_485_376,
        download_bytes=6_657_941_504,
        package_bytes=1_580_367_976,
        licence="MIT",
    ),
    ModelCard(
        name="llama-3-vision-alpha",
        repo="qresearch/llama-3-vision-alpha-hf",
        family="llamavision",
        parameters=8_479_990_848,
        download_bytes=16_959_981_696,
        package_bytes=5_493_092_864,
        licence="Llama 3 Community",
    ),
    ModelCard(
        name="llama-3.2-11b-vision",
        repo="meta-llama/Llama-3.2-11B-Vision-Instruct",
        family="mllama",
        parameters=10_670_220_835,
        download_bytes=21_340_441_670,
        package_bytes=7_012_701_696,
        licence="Llama 3.2 Community",
        gated=True,
    ),
    ModelCard(
        name="llama-3.2-11b-vision-base",
        repo="meta-llama/Llama-3.2-11B-Vision",
        family="mllama",
        parameters=10_642_941_475,
        download_bytes=21_285_882_950,
        package_bytes=6_956_668_416,
        licence="Llama 3.2 Community",
        gated=True,
    ),
    ModelCard(
        name="llama-3.2-90b-vision",
        repo="meta-llama/Llama-3.2-90B-Vision-Instruct",
        family="mllama",
        parameters=88_593_355_323,
        download_bytes=177_186_710_646,
        package_bytes=49_627_620_864,
        licence="Llama 3.2 Community",
        gated=True,
    ),
    ModelCard(
        name="llama-3.2-90b-vision-base",
        repo="meta-llama/Llama-3.2-90B-Vision",
        family="mllama",
        parameters=88_566_075_963,
        download_bytes=177_132_151_926,
        package_bytes=49_571_587_584,
        licence="Llama 3.2 Community",
        gated=True,
    ),
)


def lookup(name: str) -> ModelCard | None:
    """The card with this short name or repository, in any case of letters, or None."""
    wanted = name.lower()
    return next((card for card in CATALOG if wanted in (card.name, card.repo.lower())), None)


def find(name: str) -> ModelCard:
    """The card with this short name or repository.

    Raises:
        CheckpointNotFoundError: there is none; the message suggests the nearest.
    """
    card = lookup(name)
    if card is None:
        raise CheckpointNotFoundError(
            f"no model is called {name!r}{suggestion(name)}; expected one of "
            f"{', '.join(card.name for card in CATALOG)}"
        )
    return card


def suggestion(name: str) -> str:
    """For messages: ` (did you mean 'qwen2-vl-2b'?)`, or nothing where no known name is near."""
    known = {card.name: card.name for card in CATALOG}
    known |= {card.repo.lower(): card.repo for card in CATALOG}
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f" (did you mean {known[near[0]]!r}?)" if near else ""
