"""Lines from a terminal, by prompt_toolkit: history, editing, search and completion."""

from __future__ import annotations

from collections.abc import Iterable

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import (
    CompleteEvent,
    Completer,
    Completion,
    PathCompleter,
    WordCompleter,
)
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from vlrt.chat.lines import PROMPT
from vlrt_runtime.package import user_folder

__all__ = ["TerminalLines"]


class TerminalLines:
    """See `vlrt.chat.lines.Lines`. `commands` are completed where a line begins."""

    terminal = True

    def __init__(self, commands: Iterable[str]) -> None:
        keys = KeyBindings()
        keys.add("escape", "enter")(_new_line)
        self._session: PromptSession[str] = PromptSession(
            history=_history(),
            completer=_Commands(commands),
            complete_while_typing=False,
            auto_suggest=AutoSuggestFromHistory(),
            key_bindings=keys,
            prompt_continuation="  ",
        )

    def read(self, suggestion: str = "") -> str:
        """See `vlrt.chat.lines.Lines`."""
        return self._session.prompt(PROMPT, default=suggestion)


def _new_line(event: KeyPressEvent) -> None:
    event.current_buffer.insert_text("\n")


class _Commands(Completer):
    """Commands at the beginning of a line, and paths behind them."""

    def __init__(self, commands: Iterable[str]) -> None:
        self._names = WordCompleter(list(commands), WORD=True)
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """What the text before the cursor could become."""
        text = document.text_before_cursor
        if not text.startswith("/"):
            return ()
        _, space, argument = text.partition(" ")
        if not space:
            return self._names.get_completions(document, complete_event)
        return self._paths.get_completions(Document(argument.lstrip()), complete_event)


def _history() -> History:
    """Of all conversations, for their owner's eyes; of this one where it cannot be kept."""
    path = user_folder("state") / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.open("ab").close()
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
