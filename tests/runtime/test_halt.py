"""Ending what a graph computes, in the middle of it; and hearing Ctrl-C meanwhile."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import vlrt
from support.pictures import picture
from vlrt_runtime import session
from vlrt_runtime.answer import Answer, Timings
from vlrt_runtime.backends import device_decoder, onnx_decoder
from vlrt_runtime.halt import Halt, Halted, check_halt
from vlrt_runtime.model import Model
from vlrt_runtime.session import Graph, open_session, run_options
from vlrt_runtime.stream import Stream, interruptible

ASK = "What is this?"
PICTURE = picture(90, 60)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A graph that counts to 2^62: hundreds of years."""
    flag, number = TensorProto.BOOL, TensorProto.FLOAT
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["still"]),
            helper.make_node("Add", ["sum", "one"], ["more"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", flag, []),
            helper.make_tensor_value_info("sum", number, [1]),
        ],
        [
            helper.make_tensor_value_info("still", flag, []),
            helper.make_tensor_value_info("more", number, [1]),
        ],
        [helper.make_tensor("one", number, [1], [1.0])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        "endless",
        [helper.make_tensor_value_info("x", number, [1])],
        [helper.make_tensor_value_info("y", number, [1])],
        [helper.make_tensor("n", TensorProto.INT64, [], [1 << 62])],
    )
    path = tmp_path_factory.mktemp("graph") / "endless.onnx"
    opset = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return Graph(open_session(path, device="cpu", threads=1))


def test_a_graph_ends_in_the_middle(endless: Graph):
    halt, ended = Halt(), threading.Event()

    def compute() -> None:
        with pytest.raises(Halted), halt.over():
            endless({"x": np.ones(1, np.float32)})
        ended.set()

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    time.sleep(0.1)
    assert not ended.is_set()
    halt.set()
    assert ended.wait(10)
    thread.join(10)


def test_what_was_halted_before_does_not_begin(endless: Graph):
    halt = Halt()
    halt.set()
    halt.set()  # again does no harm
    with pytest.raises(Halted), halt.over():
        pytest.fail("it began")
    check_halt()  # outside of it nothing ends


def test_a_handler_of_a_signal_may_halt_at_any_moment(endless: Graph):
    """It runs in the thread that computes, between any two of its instructions."""
    halt = Halt()
    before = signal.signal(signal.SIGINT, lambda *_: halt.set())
    try:
        with halt._lock:  # pyright: ignore[reportPrivateUsage]
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Halted), halt.over():
            endless({"x": np.ones(1, np.float32)})
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_that_fails_by_itself_says_so():
    halt = Halt()
    with pytest.raises(ValueError, match="by itself"), halt.over(), run_options():
        raise ValueError("by itself")


@pytest.fixture
def at_run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls something within the n-th run of a graph."""

    def set_up(number: int, action: Any) -> list[int]:
        runs: list[int] = []

        @contextmanager
        def watched(entries: Any = None) -> Iterator[Any]:
            with run_options(entries) as options:
                runs.append(len(runs))
                if len(runs) == number + 1:
                    action()
                yield options

        for module in (session, onnx_decoder, device_decoder):
            monkeypatch.setattr(module, "run_options", watched)
        return runs

    return set_up


@pytest.mark.parametrize("run", range(4), ids=["encoder", "projector", "prefill", "prefill on"])
def test_cancelling_ends_the_graph_that_runs(small_package: Path, at_run: Any, run: int):
    """The run itself refuses to go on: nothing of that run is waited for."""
    prompt = "word " * 300  # two runs of prefill
    free = Model(small_package, threads=1).generate(prompt, images=[PICTURE], max_new_tokens=9)
    model = Model(small_package, threads=1)
    stream = model.stream(prompt, images=[PICTURE], max_new_tokens=9)
    runs = at_run(run, stream.cancel)
    answer = stream.result()
    assert (answer.finish_reason, answer.token_ids, answer.text) == ("cancelled", [], "")
    assert len(runs) == run + 1
    again = model.generate(prompt, images=[PICTURE], max_new_tokens=9)
    assert again.token_ids == free.token_ids
    assert again.cached_tokens == (256 if run == 3 else 0)  # whole runs are kept


def test_a_step_is_finished_and_its_id_not_lost(small_package: Path, at_run: Any):
    model = Model(small_package, threads=1)
    free = model.generate(ASK, images=[PICTURE], max_new_tokens=9)
    stream = model.stream(ASK, images=[PICTURE], max_new_tokens=9)
    at_run(4, stream.cancel)
    answer = stream.result()
    assert answer.finish_reason == "cancelled"
    assert 0 < len(answer.token_ids) < 9
    assert answer.token_ids == free.token_ids[: len(answer.token_ids)]


# ------------------------------------------------------------------ Ctrl-C


def made(pieces: Generator[str, None, None], cancel: Any = lambda: None) -> Stream:
    def making() -> Generator[str, None, Answer]:
        yield from pieces
        return Answer("", [], "stop", 0, 0, Timings(), [])

    return Stream(making(), cancel)


def test_an_interruption_is_heard_while_a_piece_is_made():
    cancelled = threading.Event()

    def slow() -> Generator[str, None, None]:
        yield "a"
        assert cancelled.wait(20)

    pieces = interruptible(made(slow(), cancelled.set))
    assert next(pieces) == "a"
    before = threading.active_count()
    threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        next(pieces)
    assert cancelled.is_set()
    assert time.monotonic() - started < 10
    assert threading.active_count() < before  # nothing computes on


def test_what_goes_wrong_is_raised_where_pieces_are_taken(small_package: Path):
    model = vlrt.load(small_package, threads=1)
    with pytest.raises(vlrt.VlrtError, match="no such file"):
        list(interruptible(model.stream(ASK, images=["no such file"])))
    stream = model.stream(ASK, max_new_tokens=9)
    assert "".join(interruptible(stream)) == stream.result().text
    assert stream.result().finish_reason == "length"


def test_leaving_early_cancels():
    cancelled = threading.Event()

    def endlessly() -> Generator[str, None, None]:
        while not cancelled.wait(0.01):
            yield "a"

    pieces = interruptible(made(endlessly(), cancelled.set))
    assert next(pieces) == "a"
    pieces.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert cancelled.is_set()
