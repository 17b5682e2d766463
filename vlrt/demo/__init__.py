"""The model in the box: a small trained Qwen2-VL that answers about drawn shapes, offline.

What it knows, and how it was made, is told in benchmarks/demo_model.
"""

from __future__ import annotations

from pathlib import Path

from vlrt_runtime.digest import sha256_files
from vlrt_runtime.errors import PackageError, PackageNotFoundError
from vlrt_runtime.manifest import read_manifest
from vlrt_runtime.package import packages_folder
from vlrt_runtime.version import __version__

__all__ = ["CHECKPOINT", "NAME", "PICTURE", "QUESTIONS", "demo_package"]

NAME = "demo"
FOLDER = Path(__file__).parent
CHECKPOINT = FOLDER / "checkpoint"
PICTURE = FOLDER / "picture.png"
QUESTIONS = ("Describe the picture.", "How many things are there?", "Where is the {name}?")


def demo_package() -> Path:
    """The demo model's package, exported on first use by the ordinary path.

    Raises:
        MissingDependencyError: the export extra is not installed.
    """
    import vlrt

    target = packages_folder() / NAME
    if not _current(target):
        # int8: at this size the embedding table is most of the file, and nothing is lost.
        vlrt.export(CHECKPOINT, target, precision="int8", force=True)
    return target


def _current(target: Path) -> bool:
    """Whether the package is there and is of this vlrt and of these weights."""
    try:
        manifest = read_manifest(target)
    except (PackageNotFoundError, PackageError):
        return False
    weights = sha256_files(CHECKPOINT.glob("*.safetensors"))
    known = all(manifest.source.files.get(path.name) == it for path, it in weights.items())
    return known and manifest.vlrt_version == __version__
