"""Kosmos-2's captions: tags out of the text, entities out of the tags.

    An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object>

A box is two cells of a 32 x 32 grid over the picture. The result is that of transformers'
`Kosmos2Processor.post_process_generation`, to the character and to the bit.
"""

from __future__ import annotations

import re

from vlrt_runtime.entities import Box, Entity

__all__ = ["clean_up", "read_caption"]

GRID = 32  # cells along a side
TAG = re.compile(r"<.*?>")
CELLS = r"<patch_index_(\d{1,9})><patch_index_(\d{1,9})>"
PAIR = re.compile(CELLS)
_PAIR = CELLS.replace("(", "(?:")
OBJECT = re.compile(
    rf"(?:<phrase>([^<]+)</phrase>)?"
    rf"<object>((?:{_PAIR}</delimiter_of_multi_objects/>)*{_PAIR})</object>"
)
# What sentence pieces leave between words and signs, in the order of transformers' clean-up.
LOOSE = (
    *((f" {sign}", sign) for sign in ".?!,"),
    (" ' ", "'"),
    *((f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re")),
)


def clean_up(text: str) -> str:
    """The text with signs and clitics joined to the word before them."""
    for loose, joined in LOOSE:
        text = text.replace(loose, joined)
    return text


def read_caption(text: str) -> tuple[str, list[Entity]]:
    """The caption in a decoded sequence: its text without tags, and the entities."""
    caption = text.rpartition("</image>")[2]
    plain = TAG.sub("", caption)
    shift = len(plain) - len(plain.lstrip())
    entities: list[Entity] = []
    for match in OBJECT.finditer(caption):
        pairs = [(int(a), int(b)) for a, b in PAIR.findall(match[2])]
        phrase = match[1]
        if phrase is None:  # every box is an entity of its own, named after its cells
            at = _plain_length(caption, match.start()) - shift
            entities += [
                Entity(f"<patch_index_{a}><patch_index_{b}>", (at, at), (_box(a, b),))
                for a, b in pairs
            ]
            continue
        name = phrase.strip()
        start = _plain_length(caption, match.start(1)) + len(phrase) - len(phrase.lstrip())
        end = _plain_length(caption, match.end(1)) - len(phrase) + len(phrase.rstrip())
        boxes = tuple(_box(a, b) for a, b in pairs)
        entities.append(Entity(name, (start - shift, end - shift), boxes))
    return plain.strip(), entities


def _plain_length(caption: str, position: int) -> int:
    return len(TAG.sub("", caption[:position]))


def _box(first: int, last: int) -> Box:
    """Cells to a box: the cells whole where they share a row or column, else centre to centre."""
    (top, left), (bottom, right) = divmod(first, GRID), divmod(last, GRID)
    if left == right or top == bottom:
        right, bottom, inset = right + 1, bottom + 1, 0.0
    else:
        inset = 0.5
    return (
        (left + inset) / GRID,
        (top + inset) / GRID,
        (right + inset) / GRID,
        (bottom + inset) / GRID,
    )
