"""What is known to fail, as rules over finished functions: nobody here can ask Apple's compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from vlrt_export.coreml import checks
from vlrt_export.coreml.errors import LintError
from vlrt_export.coreml.tools import Function

__all__ = ["RULES", "Finding", "Rule", "findings", "lint"]

GUIDE = "https://github.com/apple/coreai-models (neural_engine_rules.md)"
ISSUES = "https://github.com/apple/coremltools/issues"
TOOLS = "https://github.com/apple/coremltools (its own error)"
CHUNKS = "https://github.com/john-rocky/CoreML-LLM (docs/DECODE_STATE_LAYOUTS.md)"
STATES = "https://github.com/john-rocky/CoreML-LLM (docs/MLSTATE_PATTERN.md)"
PRACTICE = "https://github.com/john-rocky/CoreML-LLM"
ANEMLL = "https://github.com/Anemll/Anemll (llama_converter.py)"
SCORES = "https://github.com/kasper0406/stablehlo-coreml/issues/89"
ANE, BOTH = ("ane",), ("gpu", "ane")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Something that fails.

    Attributes:
        id: its name.
        refuses: an error; otherwise a warning.
        profiles: it fails for.
        reason: what happens, or is wanted.
        source: who says so.
        check: names what breaks it.
    """

    id: str
    refuses: bool
    profiles: tuple[str, ...]
    reason: str
    source: str
    check: Callable[[Function], Iterable[str]]


@dataclass(frozen=True)
class Finding:
    """A function that breaks a rule, and where."""

    rule: Rule
    where: str


def _rule(
    name: str,
    check: Callable[[Function], Iterable[str]],
    profiles: tuple[str, ...],
    reason: str,
    source: str,
    *,
    refuses: bool = True,
) -> Rule:
    return Rule(
        id=name, refuses=refuses, profiles=profiles, reason=reason, source=source, check=check
    )


RULES = (
    _rule("rank", checks.rank, BOTH, "Core ML has at most 5 axes", TOOLS),
    _rule(
        "axis-length",
        checks.axis_length,
        ANE,
        f"no axis may be beyond {checks.LARGEST_AXIS}",
        ANEMLL,
    ),
    _rule(
        "free-size",
        checks.free_size,
        ANE,
        "sizes must be fixed, or all runs on the CPU",
        f"{ISSUES}/2600",
    ),
    _rule("state-count", checks.state_count, ANE, "two states fail when run", STATES),
    _rule("state-rank", checks.state_rank, ANE, "states must have 4 axes", STATES),
    _rule(
        "state-axes",
        checks.state_axes,
        ANE,
        f"a state's last two axes should be multiples of {checks.MULTIPLE}",
        f"{ISSUES}/2631",
        refuses=False,
    ),
    _rule(
        "program-size",
        checks.program_size,
        ANE,
        f"programs above {checks.LARGEST_PROGRAM / 1e9:g} GB may silently run on the GPU",
        CHUNKS,
        refuses=False,
    ),
    _rule("blocks", checks.blocks, ANE, "blocks of weights give wrong numbers", f"{ISSUES}/2510"),
    _rule(
        "infinite", checks.infinite, BOTH, "infinities become not-a-number; mask with -1e4", GUIDE
    ),
    _rule("float32", checks.float32, ANE, "the Neural Engine has float16 alone", GUIDE),
    _rule(
        "fused-attention",
        checks.fused_attention,
        BOTH,
        "the fused operator gives wrong numbers or does not compile on some systems",
        f"{ISSUES}/2650",
        refuses=False,
    ),
    _rule("gather-nd", checks.gather_nd, ANE, "gave zeros on the Neural Engine", PRACTICE),
    _rule(
        "table", checks.table, ANE, "large tables are not looked up there", PRACTICE, refuses=False
    ),
    _rule("epsilon", checks.epsilon, BOTH, "an epsilon that is zero divides by zero", PRACTICE),
    _rule(
        "squares",
        checks.squares,
        BOTH,
        "squares beyond 255 overflow float16",
        PRACTICE,
        refuses=False,
    ),
    _rule(
        "scores",
        checks.scores,
        BOTH,
        f"more than {checks.LARGEST_SCORES >> 20} M attention scores at a time need much memory",
        SCORES,
        refuses=False,
    ),
)


def findings(functions: Mapping[str, Function], profile: str) -> list[Finding]:
    """All that is broken, in the order of the rules."""
    return [
        Finding(rule, f"{name}: {where}")
        for rule in RULES
        if profile in rule.profiles
        for name, function in functions.items()
        for where in rule.check(function)
    ]


def lint(functions: Mapping[str, Function], program: str, profile: str) -> list[str]:
    """One line for each rule that warns.

    Raises:
        LintError: a rule refuses the program.
    """
    lines: list[str] = []
    found = findings(functions, profile)
    for rule in dict.fromkeys(finding.rule for finding in found):
        places = [finding.where for finding in found if finding.rule is rule]
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        line = f"{program}: {rule.id}: {places[0]}{more}: {rule.reason} ({rule.source})"
        if rule.refuses:
            raise LintError(line)
        lines.append(line)
    return lines
