"""Opens the package that a command names, as its options say."""

from __future__ import annotations

import argparse

import vlrt

__all__ = ["open_model"]


def open_model(
    args: argparse.Namespace, *, keep_encoder: bool = True, parallel: int = 1
) -> vlrt.Model:
    """See `vlrt_runtime.model.Model` for the options, and for what is raised."""
    return vlrt.load(
        args.package,
        device=args.device,
        threads=args.threads,
        min_pixels=args.min_pixels,
        max_pixels=args.max_pixels,
        keep_encoder=keep_encoder,
        compute_units=args.compute_units,
        mil_precision=args.mil_precision,
        cache=not args.no_cache,
        parallel=parallel,
    )
