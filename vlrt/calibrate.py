"""Prompts for calibration: pictures of a folder, each with a question and the model's own answer.

The other half is `vlrt_export.calibrate`. For the answers the package is opened as a user would;
then it is let go, and its graphs come one piece at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlrt_runtime.errors import InputError
from vlrt_runtime.families import Layout
from vlrt_runtime.image import load_image
from vlrt_runtime.model import Model
from vlrt_runtime.session import Graph, open_session

__all__ = ["PicturePrompts", "picture_files"]

MOST_PICTURES = 32
NEW_TOKENS = 32  # of an answer: its words, or numbers, meet the matrices as well
LARGEST_SIDE = 512  # pixels; larger pictures cost minutes and say nothing more
SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
QUESTIONS = (
    "Describe this picture.",
    "What is in this picture, and where?",
    "How many things do you see?",
    "What colours are there?",
)

Arrays = dict[str, NDArray[Any]]


def picture_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The first pictures of a folder, by name.

    Raises:
        InputError: there are none.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected one of pictures to calibrate with")
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"{path}: it holds no pictures to calibrate with; put 8 to 32 there")
    return found[:MOST_PICTURES]


class PicturePrompts:
    """See `vlrt_export.calibrate.Prompts`.

    Args:
        package: a package of the same model, at any precision.
        files: pictures; the question about `a.jpg` is what `a.txt` beside it says, or a common one.
    """

    def __init__(self, package: Path, files: list[Path]) -> None:
        self._files = files
        self._model = Model(package, lazy=True)  # makes prompts; its graphs stay closed
        self._raw = "chat_template.jinja" not in self._model.manifest.files
        answering = Model(package)
        self._answers = [
            answering.generate(
                self._question(i),
                images=[self._image(i)],
                raw=self._raw,
                max_new_tokens=NEW_TOKENS,
            ).token_ids
            for i in range(len(files))
        ]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._files)

    def picture(self, i: int) -> Arrays:
        """Inputs of the vision encoder."""
        return self._prepared(i)[1]

    def prompt(self, i: int, projected: Arrays) -> Arrays:
        """Inputs of the decoder for the whole prompt and answer, behind an empty cache."""
        layout, _ = self._prepared(i)
        embeds = self._model.splice(layout, [projected])
        answer = np.array(self._answers[i], np.int64)
        embeds = np.concatenate([embeds, self._model.embed(answer)[None]], axis=1)
        length = embeds.shape[1]
        given = projected | layout.inputs(embeds, 0)
        given["num_logits"] = np.array([length], np.int64)
        given["total_sequence_length"] = np.array([length], np.int32)
        inputs = self._model.manifest.graphs["decoder"].inputs
        return {
            spec.name: given[spec.name]
            if spec.name in given
            else np.zeros([0 if isinstance(n, str) else n for n in spec.shape], spec.dtype)
            for spec in inputs
        }

    def open(self, path: Path) -> Callable[[Mapping[str, NDArray[Any]]], Arrays]:
        """A graph, to be called with its inputs."""
        return Graph(open_session(path, device="cpu", threads=self._model.threads))

    def _prepared(self, i: int) -> tuple[Layout, Arrays]:
        layout, pictures = self._model.prepare(self._question(i), [self._image(i)], raw=self._raw)
        return layout, dict(pictures[0].inputs)

    def _image(self, i: int) -> Image.Image:
        image = load_image(self._files[i]).copy()
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        return image

    def _question(self, i: int) -> str:
        beside = self._files[i].with_suffix(".txt")
        if beside.is_file():
            return beside.read_text(encoding="utf-8").strip()
        return QUESTIONS[i % len(QUESTIONS)]
