"""llama.cpp, built for this machine from the source that the llama-cpp-python sdist carries."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.measure import Cost, PeerError, run, watch
from benchmarks.peers.peer import RUNNERS, Answer, Peer
from benchmarks.peers.process import Process

BUILD = [
    "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
]  # fmt: skip
TOOLS = ("llama-quantize", "llama-bench", "llama-mtmd-cli")
CONTEXT = 4096  # its default, the model's 32768, would hold 0.9 GB of cache that is never used
READY = b"\n> "
ENCODED = re.compile(r"mtmd batch encoding done in (\d+) ms")


class LlamaCpp(Peer):
    """Decoder in Q4_0, its fastest; vision encoder in f16, as its packages have it."""

    name = "llama.cpp"
    precision = "Q4_0 / f16"
    requirements = (
        "scikit-build-core", "torch==2.13.0", "transformers==4.57.6", "numpy~=2.2.6",
        "sentencepiece<0.3", "protobuf<5", "safetensors",
    )  # fmt: skip

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.source = self.folder / "src" / "vendor" / "llama.cpp"
        self.tools = self.folder / "build" / "bin"

    def build(self) -> None:
        """Fetches the source and compiles the tools, unless they are there; raises PeerError."""
        if not self.source.exists():
            self._fetch()
        if all((self.tools / tool).exists() for tool in TOOLS):
            return
        build = self.folder / "build"
        watch(["cmake", "-S", self.source, "-B", build, *BUILD], self.log)
        watch(["cmake", "--build", build, "-j", "2", "--target", *TOOLS], self.log)

    def versions(self) -> dict[str, str]:
        """The sdist's version, which names the source."""
        name = next((self.folder / "sdist").glob("*.tar.gz")).name
        return {"llama-cpp-python": name.removesuffix(".tar.gz").rpartition("-")[2]}

    def make(self, checkpoint: Path) -> Cost:
        """Converts both halves and quantises the decoder."""
        shutil.rmtree(self.package, ignore_errors=True)
        self.package.mkdir()
        whole = self.folder / "f16.gguf"
        convert = [self.python, RUNNERS / "convert_to_gguf.py", self.source, checkpoint]
        convert += ["--outtype", "f16", "--outfile"]
        quantize = [self.tools / "llama-quantize", whole, self.package / "model-q4_0.gguf"]
        try:
            cost = watch([*convert, whole], self.log)
            cost = cost.then(watch([*quantize, "q4_0", "2"], self.log))
        finally:
            whole.unlink(missing_ok=True)
        return cost.then(watch([*convert, self.package / "mmproj-f16.gguf", "--mmproj"], self.log))

    def open(self, threads: int, new_tokens: int) -> Chat:
        """Starts llama-mtmd-cli in its chat mode."""
        command = [self.tools / "llama-mtmd-cli", "-m", self.package / "model-q4_0.gguf"]
        command += ["--mmproj", self.package / "mmproj-f16.gguf", "-t", str(threads)]
        command += [
            "-n",
            str(new_tokens),
            "-c",
            str(CONTEXT),
            "--temp",
            "0",
            "--ignore-eos",
            "--jinja",
        ]
        return Chat(command, self.log)

    def extra(self, threads: int, new_tokens: int) -> dict[str, Any]:
        """What llama-bench says of the decoder alone: tokens/s."""
        command = [self.tools / "llama-bench", "-m", self.package / "model-q4_0.gguf"]
        said = run([*command, "-t", str(threads), "-p", "256", "-n", str(new_tokens), "-o", "json"])
        return {
            "prefill" if test["n_prompt"] else "decode": test["avg_ts"] for test in json.loads(said)
        }

    def _fetch(self) -> None:
        sdist, source = self.folder / "sdist", self.folder / "src"
        command = [self.python, "-m", "pip", "download", "-q", "--no-binary", ":all:", "--no-deps"]
        watch([*command, "--no-build-isolation", "llama-cpp-python", "-d", sdist], self.log)
        source.mkdir(exist_ok=True)
        archive = next(sdist.glob("*.tar.gz"))
        watch(["tar", "xzf", archive, "-C", source, "--strip-components=1"], self.log)
        if not self.source.exists():
            raise PeerError(f"{archive.name}: it carries no vendor/llama.cpp")


class Chat:
    """A session with llama-mtmd-cli. A second question goes on with the conversation.

    Another picture gets another process: llama-mtmd-cli looks for it among those of the last
    message, which it has freed, and may crash. It warms up when it starts, so this costs it little.
    """

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        self._command, self._log = command, log
        self.load = self._start()

    def ask(self, picture: Path, question: str, *, first: bool) -> Answer:
        """See `Session`. Ids are timed as their text comes: every id of the package has some."""
        if first and self._asked:
            self.close()
            self._start()
        self._asked = True
        start = time.perf_counter()
        if first:
            self._process.write(f"/image {picture}\n")
            self._process.read_until(READY)
        self._process.write(f"{question}\n")
        self._process.read_until(b"\n")  # the question's echo
        pieces = self._process.read_until(READY)
        encoded = ENCODED.findall(self._new_log())
        times = [piece.at for piece in pieces if piece.data.strip(READY)]
        return Answer(
            encode=sum(map(int, encoded)) / 1e3 if first and encoded else None,
            ttft=times[0] - start,
            decode=times[-1] - times[0],
            tokens=len(times),
        )

    def close(self) -> None:
        """See `Session`."""
        self._process.close()

    def _start(self) -> float:
        self._asked = False
        self._read = self._log.stat().st_size
        self._process = Process(self._command, self._log)
        self.pid = self._process.pid
        return self._process.read_until(READY)[-1].at - self._process.started

    def _new_log(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._read)
            said = log.read()
        self._read += len(said)
        return said.decode("utf-8", errors="replace")
