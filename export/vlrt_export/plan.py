"""The precision plan: which component is stored how."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from vlrt_export.quantizers import DEFAULT, QUANTIZERS
from vlrt_export.target import CPU, Target
from vlrt_export.weights import PRECISIONS, Precision
from vlrt_runtime.errors import InputError

__all__ = ["CALIBRATED", "EMBEDDINGS", "check_calibration", "precision_plan"]

CALIBRATED = "gptq"  # the quantiser where there are pictures to calibrate with
EMBEDDINGS = ("source", "fp32", "fp16", "int8")


def precision_plan(
    graphs: Iterable[str],
    *,
    precision: str = "int4",
    overrides: dict[str, str | None] | None = None,
    block_size: int = 128,
    accuracy_level: int = 4,
    quantizer: str = DEFAULT,
    target: Target = CPU,
) -> dict[str, Precision]:
    """A precision for each graph.

    Args:
        graphs: names of the family's graphs.
        precision: for the whole; int4 means an int4 decoder and what the target has for the rest.
        overrides: graph name -> precision, where given.
        block_size: weights that share a scale.
        accuracy_level: of MatMulNBits.
        quantizer: of int8 and int4; calibrated ones are for int4 alone.
        target: what the graphs are made for.

    Raises:
        InputError: a precision is unknown, or a graph does not exist.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    names = list(graphs)
    given = {name: kind for name, kind in (overrides or {}).items() if kind is not None}
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise InputError(f"{', '.join(unknown)}: this family has only {', '.join(names)}")
    Precision(quantizer=quantizer)  # a bad word is told even where no part is int4
    rest = target.rest.get(precision, precision)
    level = accuracy_level if target.integer_activations else 0
    kinds = {name: precision if name == "decoder" else rest for name in names} | given
    for kind in kinds.values():
        if kind in target.unstored:
            raise InputError(f"precision {kind}: {target.unstored[kind]}; choose another")
    # At 8 bits rounding costs nothing that pictures could win back.
    other = DEFAULT if QUANTIZERS[quantizer].calibrated else quantizer
    plan = {
        name: Precision(kind, block_size, level, quantizer if kind == "int4" else other)
        for name, kind in kinds.items()
    }
    if target.turned and level == 4:
        for name, part in plan.items():
            if part.kind == "int8" and name != "decoder":  # which takes one row at a time
                plan[name] = replace(part, block_size=0, quantizer="rtn")
    return plan


def check_calibration(quantizer: str, plan: Iterable[Precision], *, calibrated: bool) -> None:
    """Makes sure that pictures are there where the quantiser needs them, and only there.

    Raises:
        InputError: it is not so.
    """
    needed = QUANTIZERS[quantizer].calibrated
    if needed and not calibrated:
        raise InputError(
            f"quantizer {quantizer}: it needs pictures; give --calibrate FOLDER, "
            f"or choose {DEFAULT}"
        )
    if calibrated and not needed:
        raise InputError(
            f"quantizer {quantizer}: it has no use for pictures; leave --calibrate out, "
            f"or choose {CALIBRATED}"
        )
    if calibrated and not any(part.quantizer == quantizer for part in plan):
        raise InputError(
            "calibrate: no part is int4, and others gain nothing by it; leave it out, "
            "or choose --precision int4"
        )
