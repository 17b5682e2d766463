"""What a package carries besides graphs: tokenizer, chat template, stop ids."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlrt_export.checkpoint import Checkpoint, read_json
from vlrt_export.config import text_config
from vlrt_runtime.errors import CheckpointError, CheckpointNotFoundError
from vlrt_runtime.manifest import Generation

__all__ = ["TEMPLATE", "TOKENIZER", "copy_assets", "generation", "special_tokens"]

TOKENIZER = "tokenizer.json"
TEMPLATE = "chat_template.jinja"
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


def copy_assets(checkpoint: Checkpoint, folder: Path, *, template: str | None = None) -> None:
    """Puts the tokenizer, and the chat template where there is one, into a package.

    `template` is used where the checkpoint has none, or one of a language model alone.

    Raises:
        CheckpointNotFoundError: the checkpoint has no tokenizer.json.
    """
    tokenizer = checkpoint.folder / TOKENIZER
    if not tokenizer.is_file():
        raise CheckpointNotFoundError(
            f"{checkpoint.folder}: it has no {TOKENIZER}; make it with "
            "transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    shutil.copyfile(tokenizer, folder / TOKENIZER)
    own = chat_template(checkpoint)
    if own is not None and (template is None or "image" in own):
        template = own
    if template is not None:
        (folder / TEMPLATE).write_text(template, encoding="utf-8", newline="")


def chat_template(checkpoint: Checkpoint) -> str | None:
    """The chat template, from whichever of its three homes it has."""
    file = checkpoint.folder / TEMPLATE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template: Any = checkpoint.optional_json(name).get("chat_template")
        if isinstance(template, list):  # several, by name
            named = {entry["name"]: entry["template"] for entry in template}
            template = named.get("default")
        if template:
            return str(template)
    return None


def special_tokens(checkpoint: Checkpoint) -> dict[str, str]:
    """bos_token and the like, as text."""
    given = checkpoint.optional_json("tokenizer_config.json")
    found = {name: given.get(name) for name in SPECIAL}
    return {
        name: str(token["content"] if isinstance(token, dict) else token)
        for name, token in found.items()
        if token is not None
    }


def generation(
    checkpoint: Checkpoint, max_context: int, more_stop_ids: Iterable[int] = ()
) -> Generation:
    """Stop ids and penalties of generation_config.json, or else config.json.

    Raises:
        CheckpointError: neither names a stop id, or greedy decoding alone cannot follow them.
    """
    path = checkpoint.folder / "generation_config.json"
    given = read_json(path) if path.is_file() else {}
    stop = given.get("eos_token_id")
    if stop is None:
        stop = text_config(checkpoint.config).get("eos_token_id")
    named = stop if isinstance(stop, list) else [] if stop is None else [stop]
    stop_ids = tuple(dict.fromkeys([*named, *more_stop_ids]))
    if not stop_ids:
        raise CheckpointError(
            "eos_token_id: neither generation_config.json nor config.json has it; add it to "
            "generation_config.json, or answers would never end"
        )
    if given.get("num_beams", 1) not in (1, None):
        raise CheckpointError(
            f"generation_config.json: num_beams {given['num_beams']}, expected 1: vlrt decodes "
            "greedily; remove the key to export anyway"
        )
    return Generation(stop_ids, max_context, float(given.get("repetition_penalty") or 1.0))
