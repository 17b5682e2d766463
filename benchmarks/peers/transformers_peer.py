"""transformers on torch in bfloat16: no export, the checkpoint is what runs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.measure import Cost
from benchmarks.peers.peer import RunnerPeer


class Transformers(RunnerPeer):
    """The reference that all others come from."""

    name = "torch bf16"
    precision = "bf16"
    requirements = ("torch==2.13.0", "transformers>=5.0", "pillow")
    named = ("torch", "transformers")
    runner = "run_transformers.py"
    keeps_export = False

    def make(self, checkpoint: Path) -> Cost | None:
        """A link to the checkpoint."""
        self.package.unlink(missing_ok=True)
        self.package.symlink_to(checkpoint.resolve(), target_is_directory=True)
        return None
