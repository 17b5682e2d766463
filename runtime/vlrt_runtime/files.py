"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Generator[IO[bytes]]:
    """A file to write into, for its owner's eyes; it takes the place of `path` at the end.

    Args:
        path: in a folder that is there.
        durable: the bytes are on the disk before they have the name.

    Raises:
        OSError: it cannot be written; what was at `path` is as it was.
    """
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", suffix=".partial", delete=False
    ) as file:
        partial = Path(file.name)
        try:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            file.close()  # Windows renames no file that is open
            os.replace(partial, path)  # noqa: PTH105
        except BaseException:
            file.close()
            partial.unlink(missing_ok=True)
            raise
