"""Does a checkpoint hold what its config.json calls for, no less and no more?"""

from __future__ import annotations

from collections.abc import Mapping

from vlrt_export.checkpoint import Checkpoint, Tensor
from vlrt_export.families import Family
from vlrt_export.weights import Faults
from vlrt_runtime.errors import CheckpointError, shortlist

__all__ = ["check_tensors"]


def check_tensors(
    checkpoint: Checkpoint,
    family: Family,
    tensors: Mapping[str, Tensor],
    table: Tensor,
    faults: Faults,
) -> None:
    """All are there; each is used, dropped by name, or a second copy of the embedding table.

    Args:
        checkpoint: knows which of its tensors were used.
        family: whose they are.
        tensors: by canonical name.
        table: the embedding table.
        faults: that layers found when they asked for theirs.

    Raises:
        CheckpointError: it names the first five of every kind of fault, and a count.
    """
    unused = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.name not in checkpoint.used and not name.startswith(family.dropped)
    }
    head = unused.pop("lm_head.weight", None)
    found = {
        "the checkpoint lacks": list(dict.fromkeys(faults.missing)),
        "other shapes than config.json calls for have": faults.misshapen,
        f"no part of {family.name} has a place for": sorted(
            tensor.name for tensor in unused.values()
        ),
    }
    said = [
        f"{what} {len(names)} tensor{'s' * (len(names) > 1)}: {shortlist(names)}"
        for what, names in found.items()
        if names
    ]
    if said:
        raise CheckpointError(f"{'; '.join(said)}; do config.json and the weights belong together?")
    if head is not None and not _equal(checkpoint, head, table):
        raise CheckpointError(
            f"{head.name}: differs from {table.name}, but config.json ties them "
            "(tie_word_embeddings); correct the one that is wrong"
        )


def _equal(checkpoint: Checkpoint, one: Tensor, other: Tensor, rows: int = 256) -> bool:
    if one.shape != other.shape:
        return False
    starts = range(0, one.rows, rows)
    blocks = ((start, min(one.rows, start + rows)) for start in starts)
    return all(
        (checkpoint.read_float(one, a, b) == checkpoint.read_float(other, a, b)).all()
        for a, b in blocks
    )
