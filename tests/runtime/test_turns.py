"""Answers of one model take turns: first come first served, and nobody stops the others."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import vlrt
from support.pictures import picture
from vlrt_runtime import turns
from vlrt_runtime.errors import InputError
from vlrt_runtime.model import Model
from vlrt_runtime.options import Progress
from vlrt_runtime.stream import Stream
from vlrt_runtime.turns import Turns

ASK = "What is this?"
PATIENT = 30.0  # seconds: longer than any test


def never() -> bool:
    return False


def untold(place: int, of: int) -> None:
    pass


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause of a reader alone ends no turn."""
    monkeypatch.setattr(turns, "PATIENCE", PATIENT)


@pytest.fixture(scope="module")
def model(small_package: Path) -> Model:
    return Model(small_package, threads=1, prefix_cache_mb=0)


@pytest.fixture(scope="module")
def free(model: Model) -> vlrt.Answer:
    return model.generate(ASK, max_new_tokens=24)


def until(true: Callable[[], bool]) -> None:
    """Waits for it; fails where it takes too long."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


class Asker(threading.Thread):
    """Takes a turn of its own in another thread, and holds it until it is let go."""

    def __init__(self, line: Turns, order: list[str], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.told: list[tuple[int, int]] = []
        self.cancelled, self.let_go = threading.Event(), threading.Event()
        self.turn = line.turn()
        self._order, self._line = order, line
        self.start()

    def run(self) -> None:
        self.turn.take(self.cancelled.is_set, lambda *place: self.told.append(place))
        self._order.append(self.name)
        assert self.let_go.wait(10)
        self.turn.end()


# ------------------------------------------------------------------ the line


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_so_many_at_once_and_the_others_as_they_came(parallel: int):
    line, order, askers = Turns(parallel), list[str](), list[Asker]()
    for number in range(6):
        askers.append(Asker(line, order, str(number)))
        until(lambda: bool(len(order) == len(askers) or askers[-1].told))
    assert len(order) == parallel
    for gone, asker in enumerate(askers, 1):
        asker.let_go.set()
        asker.join(5)
        expected = min(parallel + gone, 6)
        until(lambda expected=expected: len(order) == expected)
    assert order == [str(number) for number in range(6)]
    # Told of each place in line, and how many wait.
    assert askers[-1].told[0] == (6 - parallel, 6 - parallel)
    assert askers[-1].told == sorted(set(askers[-1].told), reverse=True)


def test_who_is_cancelled_leaves_the_line_at_once():
    line, order = Turns(1), list[str]()
    first = Asker(line, order, "first")
    until(lambda: order == ["first"])
    second = Asker(line, order, "second")
    until(lambda: second.told == [(1, 1)])
    third = Asker(line, order, "third")
    until(lambda: third.told == [(2, 2)])
    second.cancelled.set()
    line.wake()
    until(lambda: third.told == [(2, 2), (1, 1)])
    assert order == ["first", "second"]  # it is through without a turn, to say that it was
    first.let_go.set()
    until(lambda: order == ["first", "second", "third"])
    second.let_go.set()
    third.let_go.set()


@pytest.mark.usefixtures("patient")
def test_a_reader_who_comes_back_in_time_keeps_the_turn():
    line, order, mine = Turns(1), list[str](), None
    mine = line.turn()
    mine.take(never, untold)
    other = Asker(line, order, "other")
    until(lambda: other.told == [(1, 1)])
    for _ in range(20):
        mine.rest()
        mine.take(never, untold)
    assert order == []
    mine.end()
    until(lambda: order == ["other"])
    other.let_go.set()


def test_a_reader_who_pauses_gives_way_and_goes_on_before_later_ones(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(turns, "PATIENCE", 0.05)
    line, order = Turns(1), list[str]()
    mine = line.turn()
    mine.take(never, untold)
    other = Asker(line, order, "other")
    until(lambda: other.told == [(1, 1)])
    time.sleep(0.1)
    assert order == []  # it is being computed, however long that takes
    mine.rest()
    until(lambda: order == ["other"])
    later = Asker(line, order, "later")
    until(lambda: later.told == [(1, 1)])
    back = threading.Thread(
        daemon=True, target=lambda: (mine.take(never, untold), order.append("mine"))
    )
    back.start()
    until(lambda: later.told == [(1, 1), (2, 2)])
    other.let_go.set()
    back.join(5)
    assert order == ["other", "mine"]
    mine.end()
    until(lambda: order == ["other", "mine", "later"])
    later.let_go.set()


def test_none_at_once_is_refused():
    with pytest.raises(InputError, match="parallel 0: expected at least 1"):
        Turns(0)


# ------------------------------------------------------------------ a model's answers


class Overlap:
    """Counts how many steps of a model run at the same time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self.now = 0
        self._lock, self._step = threading.Lock(), Model.step
        monkeypatch.setattr(Model, "step", lambda *a, **o: self._counted(*a, **o))

    def _counted(self, *arguments: object, **options: object) -> object:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.002)
        made = self._step(*arguments, **options)  # pyright: ignore[reportArgumentType]
        with self._lock:
            self.now -= 1
        return made


@pytest.mark.parametrize("parallel", [1, 2])
def test_no_more_answers_than_allowed_are_computed_at_once(
    small_package: Path, free, parallel: int, monkeypatch: pytest.MonkeyPatch
):
    model = vlrt.load(small_package, threads=1, parallel=parallel)
    overlap = Overlap(monkeypatch)
    done: list[vlrt.Answer] = []
    askers = [
        threading.Thread(
            daemon=True, target=lambda: done.append(model.generate(ASK, max_new_tokens=24))
        )
        for _ in range(5)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(10)
    assert [answer.token_ids for answer in done] == [free.token_ids] * 5
    assert overlap.most == parallel
    waited = sorted(answer.timings.queued for answer in done)
    assert waited[parallel - 1] < 20 < waited[-1]  # of 24 tokens of 2 ms each


@pytest.mark.usefixtures("patient")
def test_two_streams_read_in_turn_by_one_thread_do_not_wait_for_one_another(model: Model, free):
    first, second = (model.stream(ASK, max_new_tokens=24) for _ in range(2))
    began = time.monotonic()
    pairs = list(zip(first, second, strict=True))
    assert len(pairs) > 8
    assert first.result().token_ids == second.result().token_ids == free.token_ids
    assert time.monotonic() - began < PATIENT / 2


def hold(model: Model) -> Stream:
    """A stream that has its turn, and whose reader, another thread, pauses."""
    stream = model.stream(ASK, max_new_tokens=24)
    reader = threading.Thread(daemon=True, target=lambda: next(stream))
    reader.start()
    reader.join(10)
    return stream


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("how", ["exhaust", "close", "drop", "cancel"])
def test_an_answer_that_is_over_or_forgotten_gives_its_turn_back(model: Model, free, how: str):
    held = hold(model)
    told: list[Progress] = []
    got: list[vlrt.Answer] = []

    def ask() -> None:
        got.append(model.generate(ASK, max_new_tokens=24, on_progress=told.append))

    asker = threading.Thread(daemon=True, target=ask)
    asker.start()
    until(lambda: told == [Progress("queued", 1, 1)])
    if how == "exhaust":
        held.result()
    elif how == "close":
        held.close()
    elif how == "drop":
        del held
        gc.collect()
    else:
        held.cancel()
        assert list(held) is not None
    asker.join(10)
    assert got[0].token_ids == free.token_ids
    assert told[1].stage == "preprocess"


@pytest.mark.usefixtures("patient")
def test_a_waiting_answer_is_cancelled_at_once_and_reads_nothing(model: Model):
    held, told = hold(model), list[Progress]()
    stream = model.stream(ASK, images=["there is no such file"], on_progress=told.append)
    got: list[vlrt.Answer] = []
    asker = threading.Thread(daemon=True, target=lambda: got.append(stream.result()))
    asker.start()
    until(lambda: bool(told))
    stream.cancel()
    asker.join(10)
    (answer,) = got
    assert (answer.finish_reason, answer.text, answer.prompt_tokens) == ("cancelled", "", 0)
    assert answer.timings.queued > 0
    assert {each.stage for each in told} <= {"queued", "preprocess"}
    held.close()


@pytest.mark.usefixtures("patient")
def test_models_do_not_wait_for_one_another(model: Model, small_package: Path, free):
    held, told = hold(model), list[Progress]()
    other = Model(small_package, threads=1)
    answer = other.generate(ASK, max_new_tokens=24, on_progress=told.append)
    assert answer.token_ids == free.token_ids
    assert told[0].stage == "preprocess"
    assert held.result().token_ids == free.token_ids


def test_an_answer_that_fails_gives_its_turn_back(model: Model, free):
    for _ in range(3):
        with pytest.raises(InputError):
            model.generate(ASK, images=["there is no such file"])
    assert model.generate(ASK, max_new_tokens=24).token_ids == free.token_ids


# ------------------------------------------------------------------ how soon a cancel is


def test_cancelling_takes_effect_within_one_token(model: Model, monkeypatch: pytest.MonkeyPatch):
    """A step that is running is finished; none is begun after it."""
    begun, go_on, step = threading.Semaphore(0), threading.Semaphore(0), Model.step

    def gated(*arguments: object, **options: object) -> object:
        begun.release()
        assert go_on.acquire(timeout=10)
        return step(*arguments, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Model, "step", gated)
    stream = model.stream(ASK, images=[picture(90, 60)], max_new_tokens=24)
    reader = threading.Thread(daemon=True, target=stream.result)
    reader.start()
    for _ in range(5):
        assert begun.acquire(timeout=10)
        go_on.release()
    assert begun.acquire(timeout=10)  # the sixth step is running
    stream.cancel()
    go_on.release()
    reader.join(10)
    assert stream.answer is not None
    assert stream.answer.finish_reason == "cancelled"
    assert len(stream.answer.token_ids) == 6
    assert not begun.acquire(blocking=False)


def test_the_latency_of_a_cancel_is_a_step_not_an_answer(
    model: Model, monkeypatch: pytest.MonkeyPatch
):
    Overlap(monkeypatch)  # 2 ms a step
    stream = model.stream(ASK, max_new_tokens=2000)
    reader = threading.Thread(daemon=True, target=stream.result)
    reader.start()
    time.sleep(0.1)
    stream.cancel()
    reader.join(2)
    assert stream.answer is not None
    assert 0 < len(stream.answer.token_ids) < 200
