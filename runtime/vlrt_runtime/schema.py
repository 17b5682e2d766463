"""Answers that fit a JSON schema, by llguidance: ids that cannot go on are out before one is taken.

An answer that ends by itself always parses and fits. One that is cut, by `max_new_tokens`, by a
stop text or by a cancel, does not: its `finish_reason` is `length` or `cancelled`, or a stop text
was given. So bound what can be long: strings by maxLength, arrays by maxItems, numbers by minimum
and maximum. JSON is written on one line, with a space behind colons and commas.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vlrt_runtime.errors import InputError, MissingDependencyError

__all__ = ["Constraint", "FastForward", "Guide", "compile_schema"]

Logits = NDArray[np.float32]
# One way to write spaces, so that they are no choices: most of an object's frame is then forced.
STYLE = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}


def compile_schema(schema: Mapping[str, Any] | str) -> str:
    """The schema as a grammar, checked.

    Raises:
        InputError: it is no JSON schema, or one that llguidance cannot enforce.
        MissingDependencyError: llguidance is not installed.
    """
    matcher = _library().LLMatcher
    try:
        found: Any = json.loads(schema) if isinstance(schema, str) else schema
        if not isinstance(found, Mapping):
            raise TypeError(f"expected an object, got {type(found).__name__}")
        grammar: str = matcher.grammar_from_json_schema(json.dumps(found), overrides=STYLE)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"schema: not a JSON schema: {error}") from error
    failed: str = matcher.validate_grammar(grammar)
    if failed and not failed.startswith("WARNING"):
        raise InputError(f"schema: it cannot be enforced: {_line(failed)}")
    return grammar


class Guide:
    """What llguidance knows of a tokenizer: made once a model, in 0.3 s for 150 000 tokens.

    Args:
        path: of tokenizer.json.
        vocab_size: logits of the decoder.

    Raises:
        InputError: it is of a kind that llguidance does not know.
        MissingDependencyError: llguidance is not installed.
    """

    def __init__(self, path: Path, vocab_size: int) -> None:
        library = _library()
        self._matcher = library.LLMatcher
        slices = library.LLTokenizer.json_slices()
        try:
            content = _without_gaps(path.read_text("utf-8"))
            self._tokenizer = library.LLTokenizer(content, n_vocab=vocab_size, slices=slices)
        except Exception as error:
            raise InputError(
                f"schema: llguidance does not know this model's kind of tokenizer: {_line(error)}"
            ) from error
        self.end: int = self._tokenizer.eos_token

    def matcher(self, grammar: str) -> Any:
        """A new llguidance.LLMatcher."""
        return self._matcher(self._tokenizer, grammar, log_level=0)


class Constraint:
    """One answer under a grammar.

    Args:
        guide: of the model's tokenizer.
        grammar: of `compile_schema`.
        stop_ids: that end an answer, once it is whole.

    Attributes:
        seconds: spent here.
    """

    def __init__(self, guide: Guide, grammar: str, stop_ids: Collection[int]) -> None:
        self.seconds = 0.0
        self._matcher = guide.matcher(grammar)
        self._end, self._stop_ids = guide.end, list(stop_ids)
        self._forced: list[int] = []
        self._raise()

    def pick(self, logits: Logits, pick: Callable[[Logits], int]) -> int:
        """The next id: the only one there is, or what `pick` takes of logits [vocab]."""
        began = time.perf_counter()
        if self._forced:
            token = self._forced.pop(0)
        else:
            allowed = self._allowed(len(logits))
            masked = np.where(allowed, logits, np.float32(-np.inf))
            self.seconds += time.perf_counter() - began
            token = pick(masked)
            began = time.perf_counter()
        if token not in self._stop_ids:
            self._matcher.consume_token(token)
            self._raise()
        self.seconds += time.perf_counter() - began
        return token

    def force(self, most: int) -> Sequence[int]:
        """Up to so many ids that there is no choice about: the next calls of `pick` give them."""
        began = time.perf_counter()
        if not self._forced:
            self._forced = list(self._matcher.compute_ff_tokens())[:most]
        self.seconds += time.perf_counter() - began
        return self._forced

    def _allowed(self, vocab_size: int) -> NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._raise()
        allowed = np.zeros(vocab_size, np.bool_)
        found = np.unpackbits(bits, count=min(8 * len(bits), vocab_size), bitorder="little")
        allowed[: len(found)] = found
        # Which ids end an answer, the package says, not the tokenizer.
        allowed[[self._end, *self._stop_ids]] = False
        allowed[self._stop_ids] = self._matcher.is_accepting()
        return allowed

    def _raise(self) -> None:
        if self._matcher.is_error():
            raise InputError(f"schema: it cannot be followed: {_line(self._matcher.get_error())}")


class FastForward:
    """A `step` for the greedy loop that runs ids there is no choice about at once.

    Args:
        constraint: of the answer.
        step: runs one id; the next logits [vocab].
        run: runs several ids; logits float32 [n, vocab] behind each.
        limit: ids of the answer at most.
    """

    def __init__(
        self,
        constraint: Constraint,
        *,
        step: Callable[[int], Logits],
        run: Callable[[Sequence[int]], Logits],
        limit: int,
    ) -> None:
        self._constraint, self._step, self._run = constraint, step, run
        self._left = limit
        self._ahead = 0  # ids that were run and are still to be taken
        self._logits: Logits | None = None  # behind the last of them

    def step(self, token: int) -> Logits:
        """Takes the id just chosen and gives logits; of those behind forced ids, the last count."""
        self._left -= 1
        if self._ahead and self._logits is not None:
            self._ahead -= 1
            return self._logits
        forced = self._constraint.force(self._left)
        if not forced:
            return self._step(token)
        self._ahead = len(forced)
        self._logits = logits = self._run([token, *forced])[-1]
        return logits


def _without_gaps(tokenizer: str) -> str:
    """A tokenizer.json whose ids all have a token: llguidance counts tokens to know the ids."""
    content: Any = json.loads(tokenizer)
    vocab, added = content["model"]["vocab"], content["added_tokens"]
    if not isinstance(vocab, dict):
        return tokenizer
    ids = [*cast("dict[str, int]", vocab).values(), *(int(token["id"]) for token in added)]
    gaps = set(range(max(ids))).difference(ids)
    plain: dict[str, Any] = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for gap in gaps:
        vocab[name := f"<|gap {gap}|>"] = gap
        added.append({**plain, "id": gap, "content": name, "special": True})
    return json.dumps(content) if gaps else tokenizer


def _library() -> Any:
    try:
        return import_module("llguidance")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "schema: it needs llguidance, which is not installed: pip install 'vlrt[json]'"
        ) from error


def _line(said: object) -> str:
    return " ".join(str(said).split())[:300]
