"""The picture and the questions of a round: no two rounds share any, so no cache helps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SHIFT = 9  # pixels that the window on the photograph moves from round to round
WORDS = ("light", "shape", "color", "place", "lines", "faces", "space", "style")  # a length


@dataclass(frozen=True)
class Task:
    """What a peer is asked in a round: a picture, and two questions about it.

    Before that, `question` about another picture of the same size, for what the first run of a
    process compiles and allocates.
    """

    before: Path
    picture: Path
    question: str
    second: str


def task(folder: Path, size: tuple[int, int], number: int) -> Task:
    """The one of a round, its picture written into a folder.

    Questions of all rounds have as many letters, and with a byte-level tokenizer as many tokens.
    """
    word = WORDS[number % len(WORDS)]
    return Task(
        picture(folder, size, 2 * number),
        picture(folder, size, 2 * number + 1),
        f"What do you see of the {word} in this picture?",
        f"Say more of its {word} and of what is behind it.",
    )


def picture(folder: Path, size: tuple[int, int], number: int) -> Path:
    """A photograph that comes with scikit-image: another window, mirrored in every other round."""
    from PIL import Image, ImageOps
    from skimage import data

    path = folder / f"photo-{size[0]}x{size[1]}-{number}.jpg"
    if not path.exists():
        photo = Image.fromarray(data.astronaut())
        left, top = (SHIFT * (number // 2 // period % 8) for period in (1, 8))
        view = photo.crop((left, top, photo.width - 72 + left, photo.height - 72 + top))
        view = ImageOps.mirror(view) if number % 2 else view
        folder.mkdir(parents=True, exist_ok=True)
        view.resize(size).save(path, quality=92)
    return path
