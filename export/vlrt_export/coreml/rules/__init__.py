"""The table: for each operator that layers emit for a target of fixed sizes, what it is in MIL."""

from __future__ import annotations

from vlrt_export.coreml.rules import attention, elementwise, matrices, shapes
from vlrt_export.coreml.rules.table import Rule

__all__ = ["RULES"]

RULES: dict[str, Rule] = {
    **elementwise.TABLE,
    **shapes.TABLE,
    **matrices.TABLE,
    **attention.TABLE,
}
