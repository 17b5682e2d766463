"""The file of a benchmark: what was asked, every sample, and the machine it ran on.

Readers refuse a `schema_version` they do not know. Durations are milliseconds, sizes bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec

from vlrt.bench.stats import Summary, summary
from vlrt_runtime.errors import InputError

__all__ = ["FIGURES", "SCHEMA_VERSION", "Case", "Record", "Row", "Run", "read_record"]

SCHEMA_VERSION = 1
MAX_BYTES = 256 << 20

# name -> what it is; the order of tables
FIGURES = {
    "load_cold": "opening the package, its files and prepacked weights dropped from the page cache",
    "load_warm": "opening it again",
    "preprocess": "picture from its bytes to patches, prompt to ids",
    "encode": "the vision encoder",
    "project": "the projector, and its rows into the prompt",
    "prefill": "the prompt through the decoder",
    "ttft": "picture's bytes to the first id: all of the four above",
    "tpot": "per id after the first, a run's mean",
    "token": "one id after the first",
    "total": "picture's bytes to the last id",
}


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Checked when it is read."""


class Case(Struct, frozen=True):
    """One combination to measure; `image` is WIDTHxHEIGHT, a file's path, or none.

    With `caches` another question about the picture was answered before.
    """

    package: str
    device: str
    threads: int
    image: str
    prompt_tokens: int | None
    new_tokens: int
    caches: bool = False

    @property
    def label(self) -> str:
        """For people."""
        image = self.image if len(self.image) < 20 else Path(self.image).name
        prompt = f" prompt {self.prompt_tokens}" if self.prompt_tokens else ""
        return f"{Path(self.package).name} {image}{prompt} {self.threads}t{' cached' * self.caches}"


class Run(Struct, frozen=True):
    """One answer: ms by stage, of each id after the first, and what was seen meanwhile.

    Attributes:
        stages: ms by name, see FIGURES.
        tokens: ms of each id after the first.
        at: seconds since the row's first run, at its first id.
        mhz: mean frequency of the cores after it, where the system says so.
        joules: of the whole answer, where the machine counts them.
    """

    stages: dict[str, float]
    tokens: list[float]
    at: float
    mhz: float | None = None
    joules: float | None = None


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """What was measured of one case.

    Attributes:
        case: what was asked.
        ended: steady, time, runs, interrupted, or failed: and why.
        runs: every repetition, the warm-up left out.
        loads: ms of every opening: load_cold, load_warm.
        counts: image_tokens, prompt_tokens, encoder_rows and so on.
        memory: bytes: peak_rss, private, gpu.
        components: by graph: bytes, parameters, precision.
        digest: SHA-256 of the greedy ids of the first run.
        limits: shares of the machine's limits.
        notes: what the reader should know.
        package_sha256: of the package's manifest, which holds every file's own.
    """

    case: Case
    ended: str = "interrupted"
    runs: list[Run] = []
    loads: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    memory: dict[str, int] = {}
    components: dict[str, dict[str, Any]] = {}
    digest: str = ""
    limits: dict[str, float] = {}
    notes: list[str] = []
    package_sha256: str = ""

    def samples(self, figure: str) -> list[float]:
        """All of a figure's samples."""
        if figure in self.loads:
            return self.loads[figure]
        if figure == "token":
            return [ms for run in self.runs for ms in run.tokens]
        return [run.stages[figure] for run in self.runs if run.stages.get(figure, 0.0) > 0]

    def summaries(self) -> dict[str, Summary]:
        """By figure, those that have samples."""
        return {name: summary(s) for name in FIGURES if (s := self.samples(name))}


class Record(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    schema_version: int
    environment: dict[str, Any]
    machine: dict[str, float]
    rows: list[Row]

    def to_json(self) -> bytes:
        """Indented, with the summaries beside the samples they come from."""
        content = msgspec.to_builtins(self)
        for built, row in zip(content["rows"], self.rows, strict=True):
            built["summary"] = {n: msgspec.to_builtins(s) for n, s in row.summaries().items()}
        return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def read_record(path: str | Path) -> Record:
    """Reads what `vlrt bench --format json` wrote.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    try:
        path = Path(path)
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: over {MAX_BYTES} bytes; no benchmark is that large")
        content: Any = msgspec.json.decode(path.read_bytes())
        if not isinstance(content, dict) or "schema_version" not in content:
            raise InputError(f"{path}: not a benchmark; make one: vlrt bench --format json -o FILE")
        if content["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"{path}: schema_version {content['schema_version']}, expected {SCHEMA_VERSION}; "
                "measure again with this vlrt"
            )
        rows: list[dict[str, Any]] = cast("Any", content).get("rows", [])
        for row in rows:
            row.pop("summary", None)  # made of the samples anew
        return msgspec.convert(content, Record)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check the path") from error
    except (msgspec.MsgspecError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not a benchmark of vlrt: {error}") from error
