"""One repository of a model hub: what is in it, and its files brought to this disk.

huggingface_hub lists, authenticates and names its errors. The bytes are fetched here, because its
own download (as of 2.4) deletes a partial file when it stops, so that gigabytes would start again
from nothing, and compares sizes only. Plain HTTP even where the hub offers Xet: that cannot resume.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from vlrt_export.catalog import suggestion
from vlrt_export.hub_cache import COMMIT, Progress, RemoteFile, RepositoryCache
from vlrt_runtime.errors import (
    CheckpointNotFoundError,
    DownloadError,
    InputError,
    MissingDependencyError,
    VlrtError,
)

__all__ = ["Progress", "RemoteFile", "Repository"]

T = TypeVar("T")

TRIES = 5
WAIT = 1.0  # seconds before the second try, doubled for each further one
ADVANCE = 1 << 20  # bytes: a try that brought as many before it was cut does not count as failed
PASSING = frozenset({408, 416, 429, 500, 502, 503, 504})  # answers worth another try
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Repository:
    """A repository at one revision.

    Args:
        repo: `owner/name`.
        revision: branch, tag or commit.
        cache_dir: the cache to use in place of huggingface_hub's own.
        progress: called as a download goes on.

    Raises:
        InputError: HF_ENDPOINT is no address, or the token is none.
        MissingDependencyError: huggingface_hub is not installed.
    """

    def __init__(
        self,
        repo: str,
        revision: str,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        try:
            from huggingface_hub import constants, get_token
            from huggingface_hub.file_download import repo_folder_name
        except ImportError as error:
            raise MissingDependencyError(
                f"{repo}: downloading needs huggingface_hub, which is not installed; "
                "pip install 'vlrt[export]', or give a local folder"
            ) from error
        self.repo, self.revision = repo, revision
        self.progress = progress or (lambda label, done, total: None)
        # Read now: huggingface_hub reads it once, when it is imported.
        self.endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT
        address = urlsplit(self.endpoint)
        if address.scheme not in ("http", "https") or not address.netloc:
            raise InputError("HF_ENDPOINT: expected an address like https://huggingface.co")
        if not re.fullmatch(r"[!-~]*", get_token() or ""):
            raise InputError(
                "the token of HF_TOKEN or of `hf auth login` holds characters that no token has; "
                "copy it again"
            )
        self.host = address.netloc.rpartition("@")[2]  # without a password
        self.page = f"{address.scheme}://{self.host}/{repo}"
        root = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().absolute()
        folder = repo_folder_name(repo_id=repo, repo_type="model")
        self.cache = RepositoryCache(root, folder, self.progress)

    def listing(self, *, tries: int = 3) -> tuple[str, dict[str, RemoteFile]]:
        """The commit that the revision stands for, and the files of its top folder by name.

        Raises:
            CheckpointNotFoundError: no such repository or revision.
            DownloadError: the hub refuses, or cannot be asked.
        """
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint, library_name="vlrt")
        try:
            info = self._retrying(
                lambda: api.model_info(
                    self.repo, revision=self.revision, files_metadata=True, timeout=10
                ),
                tries=tries,
            )
        except (ValueError, LookupError, TypeError) as error:
            raise self._no_hub("its answer cannot be read") from error
        files: dict[str, RemoteFile] = {}
        for entry in info.siblings or ():
            name = entry.rfilename
            size, digest = entry.size, entry.blob_id
            if entry.lfs:
                size, digest = entry.lfs.size, entry.lfs.sha256
            if "/" in name:
                continue
            if size is None or digest is None or not DIGEST.fullmatch(digest):
                raise self._no_hub(f"it gives no size and digest of {name}")
            files[name] = RemoteFile(name, size, digest)
        if info.sha is None or not COMMIT.fullmatch(info.sha):
            raise self._no_hub(f"it names no commit of {self.revision!r}")
        return info.sha, files

    def bring(self, commit: str, files: list[RemoteFile]) -> Path:
        """Download and verify what is not on this disk yet; returns the folder of the files.

        Raises:
            DownloadError: a file cannot be fetched, or is not what the hub says it is.
            StorageError: the disk is full or cannot be written.
        """
        with self.cache.storage_errors():
            missing = [file for file in files if not self.cache.has(file, commit)]
            if missing:
                self.cache.prepare(missing)
            total = sum(file.size for file in files)
            done = total - sum(file.size for file in missing)
            for file in missing:
                self._fetch(file, commit, done, total)
                done += file.size
        return self.cache.snapshot(commit)

    def _fetch(self, file: RemoteFile, commit: str, done: int, total: int) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import WeakFileLock

        url = hf_hub_url(self.repo, file.name, revision=commit, endpoint=self.endpoint)
        with WeakFileLock(self.cache.locks / f"{file.digest}.lock"):
            if self.cache.has(file, commit):  # another process was faster
                return
            incoming = _Incoming(
                self.cache.partial(file),
                file,
                checking=self.progress,
                report=lambda have: self.progress(f"downloading {self.repo}", done + have, total),
            )
            with incoming.out:
                self._retrying(lambda: _stream(url, incoming), have=lambda: incoming.have)
            got = incoming.hash.hexdigest()
            if got != file.digest:
                incoming.path.unlink()
                raise DownloadError(
                    f"{self.repo}: {file.name} arrived damaged: expected digest {file.digest}, "
                    f"got {got}; the bad file was deleted, run the same command again (if this "
                    "repeats, a proxy or mirror in between changes the file)"
                )
            self.cache.adopt(file, commit)

    def _retrying(
        self, action: Callable[[], T], *, have: Callable[[], int] = lambda: 0, tries: int = TRIES
    ) -> T:
        """Do it, again after what may pass; all other failures in our own words."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        failures, before = 0, have()
        while True:
            try:
                return action()
            except (HfHubHTTPError, OfflineModeIsEnabled) as error:
                failures += 1
                status = _status(error)
                if status not in PASSING or failures >= tries:
                    raise self._explained(error, status) from error
            except _http_error() as error:
                failures = 1 if have() - before >= ADVANCE else failures + 1
                if failures >= tries:
                    # Its own words are left out: they can quote a header, and so the token.
                    raise self._explained(error, None) from None
            before = have()
            time.sleep(WAIT * 2 ** (failures - 1))

    def _no_hub(self, what: str) -> DownloadError:
        return DownloadError(
            f"{self.repo}: {self.host} is no model hub or no complete mirror of one: {what}; set "
            "HF_ENDPOINT to another, or leave it out"
        )

    def _explained(self, error: Exception, status: int | None) -> VlrtError:
        from huggingface_hub import errors, get_token

        if get_token() is None:
            login = "log in with `hf auth login`, or set HF_TOKEN"
        else:
            login = "check that your token may read it (`hf auth whoami`; HF_TOKEN comes first)"
        again = "run the same command again: the download resumes where it stopped"
        kind: type[VlrtError] = DownloadError
        if isinstance(error, errors.OfflineModeIsEnabled):
            what = (
                f"HF_HUB_OFFLINE is set and {self.cache.storage} has no complete copy of "
                f"{self.revision!r}; unset it, or give a local folder that holds the checkpoint"
            )
        elif isinstance(error, errors.GatedRepoError):
            what = f"gated: accept its licence at {self.page} first, then {login}"
        elif isinstance(error, errors.RevisionNotFoundError):
            kind = CheckpointNotFoundError
            what = (
                f"no revision {self.revision!r} on {self.host}; expected a branch, a tag or a "
                f"commit of {self.page}/commits/main"
            )
        elif isinstance(error, errors.RepositoryNotFoundError):
            kind = CheckpointNotFoundError
            what = (
                f"no such repository on {self.host} nor folder here{suggestion(self.repo)}; check "
                f"the spelling, and if the repository is private {login}"
            )
        elif status in (401, 403):
            what = f"{self.host} refuses access ({status}); {login}"
        elif status == 429:
            what = f"{self.host} is asked too often (429); wait some minutes and {again}"
        elif status is not None:
            what = f"{self.host} answers with status {status}; wait some minutes and {again}"
        else:
            what = (
                f"no connection to {self.host}, or it was cut ({type(error).__name__}); check the "
                f"network and {again}. Without network, give a local folder"
            )
        return kind(f"{self.repo}: {what}")


class _Incoming:
    """A file on its way: what has come so far is on disk, counted and hashed."""

    def __init__(
        self, path: Path, file: RemoteFile, *, checking: Progress, report: Callable[[int], None]
    ) -> None:
        self.path, self.file, self.report = path, file, report
        self.out = path.open("ab")
        self.hash, self.have = file.hash(path, checking)
        if self.have > file.size:
            self.restart()

    def restart(self) -> None:
        self.out.truncate(0)
        self.hash, self.have = self.file.hash(self.path, lambda *_: None)

    def write(self, block: bytes) -> None:
        self.out.write(block)
        self.hash.update(block)
        self.have += len(block)
        self.report(self.have)


def _stream(url: str, incoming: _Incoming) -> None:
    """Ask for what is missing of a file, and take it as it comes."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    size = incoming.file.size
    if incoming.have == size:
        return
    headers = build_hf_headers(library_name="vlrt") | {"Accept-Encoding": "identity"}
    if incoming.have:
        headers["Range"] = f"bytes={incoming.have}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream(
        "GET", url, headers=headers, timeout=timeout, follow_redirects=True
    ) as response:
        if response.status_code in (200, 416):  # the whole file, or no such part of it
            incoming.restart()
        hf_raise_for_status(response)
        for block in response.iter_bytes():
            incoming.write(block)
            if incoming.have > size:  # not the file that was listed: its digest will say so
                return
    if incoming.have < size:
        raise _http_error()("the answer ended early")


def _http_error() -> type[Exception]:
    """Root of the errors of httpx or httpx2, whichever the installed huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__mro__[1]


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else response.status_code
