"""OpenVINO GenAI: `optimum-cli export openvino`, then `openvino_genai.VLMPipeline`."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.peers.measure import Cost, watch
from benchmarks.peers.peer import RunnerPeer


class OpenVino(RunnerPeer):
    """With its defaults for int4, which leave the vision encoder at int8."""

    name = "OpenVINO"
    precision = "int4 / int8"
    # torch with the torchvision built for it: the exporter's processor has a part for videos
    requirements = (
        "openvino-genai", "optimum-intel", "transformers>=4.57,<4.58", "nncf", "torch",
        "torchvision", "pillow",
    )  # fmt: skip
    named = ("openvino", "openvino-genai", "optimum-intel")
    runner = "run_openvino.py"

    def make(self, checkpoint: Path) -> Cost:
        """Exports the checkpoint."""
        shutil.rmtree(self.package, ignore_errors=True)
        exporter = self.python.with_name("optimum-cli")
        options = ["--task", "image-text-to-text", "--weight-format", "int4"]
        command = [exporter, "export", "openvino", "-m", checkpoint, *options, self.package]
        return watch(command, self.log)
