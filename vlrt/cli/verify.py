"""`vlrt verify`."""

from __future__ import annotations

import argparse
import json
import os

from vlrt.verify import Verification, verify

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    """Compares and prints; the exit status is 0 however large the differences are."""
    # transformers would draw bars and write notes between our lines.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    found = verify(
        args.package,
        args.against,
        image=args.image,
        prompt=args.prompt,
        max_new_tokens=args.max_new_tokens,
        threads=args.threads,
        device=args.device,
        compute_units=args.compute_units,
        mil_precision=args.mil_precision,
        write=args.write,
    )
    print(json.dumps(found.as_dict()) if args.json else "\n".join(_lines(found)))
    return 0


def _lines(found: Verification) -> list[str]:
    lines = [f"{'stage':16} {'largest difference':>18} {'largest value':>14}"]
    lines += [f"{s.name:16} {s.difference:18.2e} {s.scale:14.4g}" for s in found.stages]
    lines.append(f"prompt ids       {'equal' if found.prompt_equal else 'DIFFERENT'}")
    lines.append(f"greedy tokens    {found.agreed_tokens} of {found.compared_tokens} agree")
    if (first := found.divergence) is not None:
        lines.append(
            f"first difference token {first.index}: {_token(first.token_id)} (margin "
            f"{first.margin:.3g}), expected {_token(first.expected_id)} (margin "
            f"{first.expected_margin:.3g})"
        )
    return lines


def _token(token_id: int | None) -> str:
    return "stop" if token_id is None else str(token_id)
