"""A command-line app around a package: `ask PICTURE QUESTION`.

pyinstaller --add-data FOLDER:package ask.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import vlrt

PACKAGE = Path(__file__).parent / "package"  # beside this file, frozen or not


def main() -> int:
    """Answers, streaming the text to standard output."""
    if len(sys.argv) != 3:
        print("usage: ask PICTURE QUESTION", file=sys.stderr)
        return 2
    _, picture, question = sys.argv
    try:
        model = vlrt.load(PACKAGE)
        for piece in model.stream(question, images=[picture], max_new_tokens=64):
            print(piece, end="", flush=True)
    except vlrt.VlrtError as error:
        print(f"ask: {error}", file=sys.stderr)
        return 1
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
