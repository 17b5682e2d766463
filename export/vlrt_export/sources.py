"""Where a checkpoint comes from: a local folder, a short name or a repository of a model hub.

`resolve` answers with a folder on this disk, and downloads what is missing in it. It knows which
files an export reads; what is in them is not its business.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from vlrt_export.catalog import CATALOG, lookup, suggestion
from vlrt_export.hub import Progress, RemoteFile, Repository
from vlrt_runtime.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    DownloadError,
    InputError,
    shortlist,
)

__all__ = ["Progress", "Source", "resolve"]

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SMALL = (
    CONFIG,
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
)
HUB_ID = re.compile(r"(?!.*(--|\.\.|\.git$))[A-Za-z0-9][\w.-]*/[A-Za-z0-9]([\w.-]*\w)?", re.ASCII)
REVISION = re.compile(r"(?!.*(\.\.|//))\w([\w./-]*\w)?", re.ASCII)
SHARD = re.compile(r"(?!\.)[\w.-]+\.safetensors", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A checkpoint on this disk.

    Attributes:
        folder: where its files are.
        repo: the repository that they come from, None for a local folder.
        revision: the commit of the repository, None for a local folder.
        digests: sha256 by file name, of the files that were downloaded and verified.
    """

    folder: Path
    repo: str | None = None
    revision: str | None = None
    digests: dict[str, str] = field(default_factory=dict)


def resolve(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Source:
    """Find a checkpoint, and download what is not on this disk yet.

    Args:
        source: a folder, a short name of `vlrt models`, or a hub id (`owner/name`); the last two
            also with `@revision`.
        revision: branch, tag or commit of the repository; `main` if not given.
        cache_dir: where downloads are kept, in place of huggingface_hub's cache.
        progress: called with a label, bytes done and bytes in all.

    Raises:
        CheckpointNotFoundError: no such folder, name, repository or revision.
        CheckpointError: the repository holds no checkpoint that can be exported.
        DownloadError: the hub refuses or cannot be reached, or a file arrived damaged.
        InputError: an unusable revision, or one for a local folder.
        StorageError: the disk is full or cannot be written.
        MissingDependencyError: huggingface_hub is needed and is not installed.
    """
    if not os.fspath(source):
        raise InputError(f"no checkpoint was named; expected {_expected()}")
    folder = Path(os.path.expanduser(source))  # noqa: PTH111  Path.expanduser fails on `~nobody`
    name, at, tagged = source.partition("@") if isinstance(source, str) else ("", "", "")
    repo = _repository(name)
    # `vlrt export qwen2-vl-2b -o qwen2-vl-2b` run twice: that folder is our package, not a source.
    if folder.is_dir() and (repo is None or (folder / CONFIG).is_file()):
        if revision is not None:
            raise InputError(
                f"{source}: a local folder has no revision {revision!r}; leave it out, or name a "
                "repository of the hub"
            )
        return Source(folder.resolve())
    if repo is None:
        found = "a file, not a folder" if folder.is_file() else "no such folder"
        raise CheckpointNotFoundError(
            f"{source}: {found} ({folder.absolute()}), nor a short name or hub id"
            f"{suggestion(name)}; expected {_expected()}"
        )
    if at and revision not in (None, tagged):
        raise InputError(f"{source}: two revisions, {tagged!r} and {revision!r}; give one")
    wanted = tagged if at else "main" if revision is None else revision
    if not REVISION.fullmatch(wanted):
        raise InputError(f"{repo}: {wanted!r} is no revision; expected a branch, tag or commit")
    return _download(Repository(repo, wanted, cache_dir=cache_dir, progress=progress))


def _expected() -> str:
    return (
        f"a folder that holds a checkpoint, a short name ({', '.join(it.name for it in CATALOG)}) "
        "or a hub id like Qwen/Qwen2-VL-2B-Instruct"
    )


def _repository(name: str) -> str | None:
    card = lookup(name)
    if card is not None:
        return card.repo
    return name if HUB_ID.fullmatch(name) and len(name) <= 96 else None


def _download(repository: Repository) -> Source:
    cached = repository.cache.seen(repository.revision)
    usable = cached is not None and _complete(cached)
    try:
        commit, listed = repository.listing(tries=1 if usable else 3)
    except DownloadError:
        if cached is None or not usable:
            raise
        digests = repository.cache.verified_digests(cached)
        return Source(cached, repository.repo, cached.name, digests)
    needed = _needed(repository, commit, listed)
    folder = repository.bring(commit, needed)
    repository.cache.note(repository.revision, commit)
    digests = {file.name: file.digest for file in needed if file.in_lfs}
    return Source(folder, repository.repo, commit, digests)


def _needed(repository: Repository, commit: str, listed: dict[str, RemoteFile]) -> list[RemoteFile]:
    """The files that an export reads, weights last."""
    repo = repository.repo
    if CONFIG not in listed:
        raise CheckpointError(
            f"{repo}: it has no {CONFIG}, so it is no checkpoint of transformers (it has "
            f"{shortlist(listed) or 'no files'}); name the repository it was converted from"
        )
    if INDEX in listed:
        weights = _shards(repository.bring(commit, [listed[INDEX]]) / INDEX)
        lost = [name for name in weights if name not in listed]
        if lost:
            raise CheckpointError(f"{repo}: {INDEX} names files it has not: {shortlist(lost)}")
        weights = [INDEX, *weights]
    elif SINGLE in listed:
        weights = [SINGLE]
    else:
        others = [name for name in listed if Path(name).suffix in (".bin", ".pth", ".safetensors")]
        raise CheckpointError(
            f"{repo}: expected {SINGLE} or {INDEX}, got {shortlist(others) or 'no weights'}; vlrt "
            "reads safetensors in the layout of transformers: look for another revision or a "
            "converted copy"
        )
    return [listed[name] for name in (*SMALL, *weights) if name in listed]


def _shards(index: Path) -> list[str]:
    """The weight files that an index names."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: it cannot be read, or has no 'weight_map'") from error
    bad = [name for name in names if not isinstance(name, str) or not SHARD.fullmatch(name)]
    if bad or not names:
        raise CheckpointError(
            f"{index}: expected safetensors files beside it, got {shortlist(bad) or 'none'}"
        )
    return names


def _complete(folder: Path) -> bool:
    """Whether a folder of the cache holds the weights: they are the last to come."""
    try:
        weights = _shards(folder / INDEX) if (folder / INDEX).is_file() else [SINGLE]
    except CheckpointError:
        return False
    return all((folder / name).is_file() for name in (CONFIG, *weights))
