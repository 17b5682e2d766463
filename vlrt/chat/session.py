"""One conversation and what may be said in it: questions, pictures, commands.

Answers go to standard output, all else to standard error.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from vlrt.chat.paths import find_pictures, read_paths
from vlrt.chat.stage import StageLine
from vlrt.cli.run import statistics
from vlrt_runtime.errors import InputError
from vlrt_runtime.image import load_image
from vlrt_runtime.stream import Stream, interruptible

if TYPE_CHECKING:
    from vlrt_runtime.answer import Answer
    from vlrt_runtime.conversation import Chat, Picture
    from vlrt_runtime.model import Model
    from vlrt_runtime.options import Keywords

__all__ = ["COMMANDS", "Session"]

# Letters that would move a terminal's cursor, or worse: an answer is text and no more.
CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
ENDS = {"cancelled": "stopped", "length": "cut at --max-new-tokens, or the context's end"}


class Session:
    """A conversation.

    Args:
        model: that answers.
        terminal: somebody sits there.
        system: what the model is told before all else.
        stats: timings and memory are told after every answer.
        defaults: options of every answer.
    """

    def __init__(
        self,
        model: Model,
        *,
        terminal: bool = False,
        system: str | None = None,
        stats: bool = False,
        defaults: Keywords | None = None,
    ) -> None:
        self.model, self.terminal, self.stats = model, terminal, stats
        self.chat: Chat = model.chat(system, **(defaults or {}))
        self.suggestion = ""  # for the next line
        self.ended = False
        self._defaults: Keywords = defaults or {}
        self._pictures: list[tuple[str, Path | Picture]] = []  # for the next question
        self._answer: Answer | None = None

    def take(self, line: str) -> None:
        """Does what a line says.

        Raises:
            VlrtError: it could not be done; the conversation is as it was.
        """
        self.suggestion = ""
        name, _, argument = line.strip().partition(" ")
        if name in COMMANDS:
            COMMANDS[name].run(self, argument.strip())
            return
        pictures, question = find_pictures(line)
        if question.startswith("/"):
            near = get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "/help lists them"
            raise InputError(f"{name}: no such command, and no picture; {hint}")
        before = list(self._pictures)
        answered = False
        try:
            self.add_pictures(pictures)
            answered = not question.strip() or self.ask(question)
        finally:
            if not answered:  # the line may be given again
                self._pictures = before

    def add_pictures(self, paths: list[Path]) -> None:
        """Looks at pictures now, for the next question."""
        sizes = [load_image(path).size for path in paths]
        for path, (width, height) in zip(paths, sizes, strict=True):
            _tell(f"{path.name}, {width} x {height}: for your next question")
        self._pictures += [(path.name, path) for path in paths]

    def ask(self, question: str) -> bool:
        """Prints the answer as it comes; False if it was stopped before anything was said."""
        stage = StageLine()
        stream = self.chat.stream(
            question, images=[source for _, source in self._pictures], on_progress=stage.show
        )
        said = ""
        try:
            with self._stoppable(stream), stage:
                for said in interruptible(stream):
                    stage.clear()
                    print(said.translate(CONTROLS) if self.terminal else said, end="", flush=True)
        finally:
            if said and not said.endswith("\n"):
                print(flush=True)
        self._answer = answer = stream.result()
        if not answer.text:
            print(flush=True)  # over a pipe, each question has its answer
        if answer.finish_reason in ENDS:
            _tell(ENDS[answer.finish_reason])
        if self.stats:
            self.show_stats()
        if answer.finish_reason == "cancelled" and not answer.text:
            self.chat.undo()
            return False
        self._pictures = []
        return True

    @contextmanager
    def _stoppable(self, stream: Stream) -> Generator[None]:
        """In a terminal, Ctrl-C ends the answer. Over a pipe it ends the program, as ever."""
        if not self.terminal:
            yield
            return

        def stop(*_: object) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
            stream.cancel()

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before or signal.SIG_DFL)

    def show_stats(self, _: str = "") -> None:
        """Timings and memory of the last answer, and how much of the context is used."""
        answer = self._answer
        if answer is None:
            raise InputError("/stats: nothing has been answered yet")
        used = answer.prompt_tokens + len(answer.token_ids)
        most = self.model.manifest.generation.max_context
        print(statistics(answer), file=sys.stderr)
        kept = f", {answer.cached_tokens} of the prompt kept from before"
        print(f"{'context:':12} {used} of {most} tokens{kept}", file=sys.stderr, flush=True)

    def add_image(self, argument: str) -> None:
        """`/image`."""
        if not argument:
            raise InputError("/image: which picture? /image PATH, or drop a file into the terminal")
        self.add_pictures(read_paths(argument))

    def reset(self, _: str) -> None:
        """`/reset`."""
        self.chat.reset()
        self._pictures = []
        _tell("a new conversation")

    def undo(self, _: str) -> None:
        """`/undo`: pictures that nothing was asked about, or else the last turn."""
        if self._pictures:
            names = ", ".join(name for name, _ in self._pictures)
            self._pictures = []
            _tell(f"taken back: {names}")
            return
        turns = self.chat.turns
        if not turns:
            raise InputError("/undo: nothing has been asked yet")
        self.suggestion = self.chat.undo() or ""
        _tell(f"taken back: {self.suggestion}")
        self._pictures = [(f"picture {n}", image) for n, image in enumerate(turns[-1].images, 1)]
        if self._pictures:
            _tell(f"{_count(self._pictures, 'picture')} of it: for your next question")

    def save(self, argument: str) -> None:
        """`/save`."""
        path = _one_file("/save", argument)
        if path.exists():
            try:
                self.model.load_chat(path)
            except InputError as error:
                why = "it is there and is no conversation; choose another name"
                raise InputError(f"/save {path}: {why}") from error
        self.chat.save(path)
        _tell(f"{path}: {_count(self.chat.turns, 'turn')}")

    def load(self, argument: str) -> None:
        """`/load`."""
        self.go_on(_one_file("/load", argument))

    def go_on(self, path: Path) -> None:
        """With a conversation that was saved."""
        self.chat = self.model.load_chat(path, **self._defaults)
        self._pictures = []
        _tell(f"{path}: {_count(self.chat.turns, 'turn')}")
        for turn in self.chat.turns[-1:]:
            _tell(f"the last one: {turn.text}")
            print(turn.answer.translate(CONTROLS), file=sys.stderr, flush=True)

    def help(self, _: str) -> None:
        """`/help`."""
        for name, command in COMMANDS.items():
            print(f"{name + ' ' + command.argument:14} {command.help}", file=sys.stderr)
        print(HELP, file=sys.stderr, flush=True)

    def quit(self, _: str) -> None:
        """`/quit`."""
        self.ended = True


@dataclass(frozen=True)
class Command:
    """What begins with a slash.

    Attributes:
        run: does it, given what stands behind the name.
        help: a line about it.
        argument: the word for what stands behind it.
    """

    run: Callable[[Session, str], None]
    help: str
    argument: str = ""


COMMANDS = {
    "/image": Command(Session.add_image, "a picture for the next question", "PATH"),
    "/stats": Command(Session.show_stats, "timings and memory of the last answer"),
    "/undo": Command(Session.undo, "take the last question back, or pictures not asked about"),
    "/reset": Command(Session.reset, "begin a new conversation"),
    "/save": Command(Session.save, "write the conversation to a file, pictures included", "FILE"),
    "/load": Command(Session.load, "go on with one that was saved", "FILE"),
    "/help": Command(Session.help, "this"),
    "/quit": Command(Session.quit, "leave; so does Ctrl-D"),
}
HELP = """\
A picture dropped into the terminal is as good as /image. Ctrl-C stops an answer; Alt-Enter begins
a new line of a question."""


def _tell(what: str) -> None:
    print(f"[{what.translate(CONTROLS)}]", file=sys.stderr, flush=True)


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _one_file(command: str, argument: str) -> Path:
    paths = read_paths(argument)
    if len(paths) != 1:
        raise InputError(f"{command}: expected one file; put a name with spaces in quotes")
    return paths[0]
