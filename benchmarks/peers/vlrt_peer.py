"""vlrt itself, as installed where the race runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.peers.measure import Cost, watch
from benchmarks.peers.peer import RunnerPeer

VLRT = ["-c", "import sys; from vlrt.cli import main; sys.exit(main())"]


class Vlrt(RunnerPeer):
    """`vlrt export` with its defaults for int4; exported in every race, for it is what changes."""

    name = "vlrt"
    precision = "int4 / int8"
    named = ("vlrt", "onnxruntime")
    runner = "run_vlrt.py"
    keeps_export = False

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.python = Path(sys.executable)

    def install(self) -> None:
        """It is there."""

    def make(self, checkpoint: Path) -> Cost:
        """Exports; then no id ends an answer any more, for random weights end it anywhere."""
        command = [self.python, *VLRT, "export", checkpoint, "-o", self.package]
        cost = watch([*command, "--precision", "int4", "--force"], self.log)
        path = self.package / "manifest.json"
        manifest = json.loads(path.read_text("utf-8"))
        manifest["generation"]["stop_ids"] = []
        path.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        return cost
