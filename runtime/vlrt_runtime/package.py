"""A package on disk: where it is, what is in it, and whether it is whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import platformdirs

from vlrt_runtime.digest import sha256_files
from vlrt_runtime.errors import PackageError, PackageNotFoundError, shortlist
from vlrt_runtime.manifest import MANIFEST, Manifest, read_manifest

__all__ = ["Package", "default_output", "find_package", "packages_folder", "user_folder"]


def user_folder(kind: Literal["cache", "state"] = "cache") -> Path:
    """The user's folder for what can be made again, or for what is kept; VLRT_HOME is both."""
    home = os.environ.get("VLRT_HOME")
    find = platformdirs.user_cache_dir if kind == "cache" else platformdirs.user_state_dir
    return Path(home or find("vlrt", appauthor=False))


def packages_folder() -> Path:
    """Where packages without a folder of their own are kept."""
    return user_folder() / "packages"


def default_output(source: str | os.PathLike[str]) -> Path:
    """Where the package of a source goes if nothing else is said: its last name, in lower case."""
    last = os.fspath(source).rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    return packages_folder() / last.partition("@")[0].lower()


def find_package(reference: str | os.PathLike[str]) -> Path:
    """The folder of a package: a path, or a name that was exported before.

    Raises:
        PackageNotFoundError: there is none; near names are suggested.
    """
    path = Path(reference).expanduser()
    if (path / MANIFEST).is_file() or (path.exists() and os.fspath(reference) != path.name):
        return path
    store = packages_folder()
    if path.name == os.fspath(reference):  # kept in lower case, see `default_output`
        for name in (path.name, path.name.lower()):
            if (store / name / MANIFEST).is_file():
                return store / name
    known = [entry.parent.name for entry in sorted(store.glob(f"*/{MANIFEST}"))]
    near = get_close_matches(path.name.lower(), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; make one with `vlrt export {reference}`"
    raise PackageNotFoundError(f"{os.fspath(reference)}: no package there or under that name{hint}")


@dataclass(frozen=True)
class Package:
    """An opened package: its folder and its manifest."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, reference: str | os.PathLike[str]) -> Package:
        """Reads the manifest and makes sure that every file is there in its full size.

        Raises:
            PackageNotFoundError: there is no package.
            PackageError: it is damaged.
        """
        folder = find_package(reference)
        package = cls(folder, read_manifest(folder))
        package._check_sizes()
        return package

    def path(self, name: str) -> Path:
        """A file of the package."""
        return self.folder / name

    def graph(self, name: str) -> Path:
        """The file of a graph.

        Raises:
            PackageError: the package has no such graph.
        """
        spec = self.manifest.graphs.get(name)
        if spec is None:
            graphs = ", ".join(self.manifest.graphs)
            raise PackageError(f"{self.folder}: no graph {name!r}, only {graphs}")
        return self.folder / spec.file

    def damaged_files(self) -> list[str]:
        """Names of the files whose SHA-256 is not the manifest's. Reads all of them."""
        files = self.manifest.files
        found = sha256_files(self.folder / name for name in files)
        return [name for name, it in files.items() if found[self.folder / name] != it.sha256]

    def _check_sizes(self) -> None:
        sizes = {
            name: (entry.size, _size(self.folder, name))
            for name, entry in self.manifest.files.items()
        }
        wrong = [
            f"{name} ({'missing or a link' if found is None else f'{found} bytes'}, not {size})"
            for name, (size, found) in sizes.items()
            if size != found
        ]
        if wrong:
            raise PackageError(f"{self.folder}: damaged: {shortlist(wrong)}; export it again")


def _size(folder: Path, name: str) -> int | None:
    # A link could lead out of the package, wherever it came from.
    path = folder
    for part in name.split("/"):
        path /= part
        if path.is_symlink():
            return None
    return path.stat().st_size if path.is_file() else None
