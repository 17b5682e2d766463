"""`vlrt export`."""

from __future__ import annotations

import argparse
import sys
import time

import vlrt
from vlrt.cli.progress import progress_bar
from vlrt_runtime.manifest import read_manifest

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    """Exports and says where the package is and how large its parts are."""
    started = time.perf_counter()
    with progress_bar() as progress:
        folder = vlrt.export(
            args.source,
            args.output,
            precision=args.precision,
            vision=args.vision,
            projector=args.projector,
            decoder=args.decoder,
            embedding=args.embedding,
            target=args.target,
            device=args.device,
            profile=args.profile,
            image_sizes=args.image_size,
            context=args.context,
            block_size=args.block_size,
            accuracy_level=args.accuracy_level,
            quantizer=args.quantizer,
            calibrate=args.calibrate,
            revision=args.revision,
            vision_tower=args.vision_tower,
            projector_file=args.projector_file,
            force=args.force,
            progress=progress,
        )
    manifest = read_manifest(folder)
    parts = ", ".join(
        f"{name.replace('_', ' ')} {spec.precision.kind}" for name, spec in manifest.graphs.items()
    )
    size = sum(entry.size for entry in manifest.files.values())
    seconds = time.perf_counter() - started
    print(f"{parts}, embedding {manifest.embedding.precision}: ", end="", file=sys.stderr)
    print(f"{size / 1e6:.0f} MB in {seconds:.0f} s", file=sys.stderr)
    print(folder)
    return 0
