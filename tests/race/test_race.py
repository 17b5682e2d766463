"""The race against peers, without the peers: what it makes of their figures and failures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

import support.benchmarks  # noqa: F401  before what it makes importable
from benchmarks.peers import __main__ as command
from benchmarks.peers.llama_cpp import Chat
from benchmarks.peers.measure import Cost, PeerError, watch
from benchmarks.peers.peer import RUNNERS, Answer, Exported, Runner, RunnerPeer
from benchmarks.peers.pictures import task
from benchmarks.peers.race import Results, Sample, Settings
from benchmarks.peers.report import as_json, medians, page, tables, targets

SETTINGS = Settings(Path("qwen2-vl-2b"), 2, 64, {"500x336": 3})
RUNNER = """\
import sys
sys.path.insert(0, sys.argv[1])
from serve import Clock, serve

def open_model():
    print("a library's chatter")

    def answer(picture, question, first):
        clock = Clock()
        for _ in range(TOKENS):
            clock.tick()
        return clock.answer(encode=0.5 if first else None, prompt_tokens=len(question))

    return answer

serve(open_model)
"""
CHAT = """\
import sys, time

def say(text):
    sys.stdout.write(text)
    sys.stdout.flush()
    time.sleep(0.05)

say("commands\\n\\n> ")
for line in sys.stdin:
    say(line)
    if line.startswith("/"):
        say("done\\n")
    else:
        print("0.1 I mtmd batch encoding done in 1500 ms", file=sys.stderr, flush=True)
        say("\\n")
        for word in ("[PAD1]", " b", "[PAD2]"):
            say(word)
    say("\\n> ")
"""


def sample(peer: str, *, decode: float, ttft: float = 4.0, size: str = "500x336") -> Sample:
    first = Answer(encode=1.0, ttft=ttft, decode=decode, tokens=64, prompt_tokens=277)
    fresh, second = Answer(1.0, 2 * ttft, decode, 64), Answer(None, 0.1 * ttft, decode, 64)
    return Sample(peer, size, 0.9, fresh, first, second, 2000.0, 1500.0)


@pytest.fixture
def results() -> Results:
    found = Results(
        samples=[
            *(sample("vlrt", decode=seconds) for seconds in (2.0, 9.0, 2.1)),
            *(sample("llama.cpp", decode=seconds, ttft=10.0) for seconds in (2.1, 2.2, 1.0)),
        ],
        exports={
            "vlrt": Exported(Cost(25, 130, 120), 1990, "2026-01-02"),
            "llama.cpp": Exported(Cost(100, 4000, 1000), 2264, "2026-01-02"),
            "torch bf16": Exported(None, 4400, "2026-01-02"),
        },
        failures={"OpenVINO": "pip: exit status 1: no such wheel"},
    )
    found.versions = {"vlrt": {"vlrt": "1.0"}}
    found.precision = {"vlrt": "int4 / int8"}
    return found


def test_figures_are_medians_of_the_rounds(results):
    table = medians(results)
    assert table["vlrt", "500x336"]["decode tokens/s"] == pytest.approx(63 / 2.1)
    assert table["vlrt", "500x336"]["prefill and rest s"] == 3.0
    assert table["vlrt", "500x336"]["fresh first token s"] == 8.0
    assert "prompt tokens" in table["vlrt", "500x336"]
    assert table["llama.cpp", ""]["export s"] == 100
    assert ("torch bf16", "") not in table


def test_targets_are_ratios_of_medians_and_say_whether_they_are_met(results):
    lines = targets(results)
    assert "decode tokens/s, 500x336 / llama.cpp: 1, at least 1: met" in lines
    assert "first token s, 500x336 / llama.cpp: 0.4, at most 0.5: met" in lines
    assert "second question s, 500x336 / vlrt first token s: 0.1, at most 0.1: met" in lines
    assert "peak RSS MB, 500x336 / llama.cpp: 1, at most 0.65: NOT MET" in lines
    assert "load s, 500x336: 0.9, at most 1: met" in lines
    assert "export s / llama.cpp: 0.25, at most 0.3: met" in lines
    assert "export private MB / llama.cpp: 0.12, at most 0.1: NOT MET" in lines
    assert "first token s, 500x336 / OpenVINO: -, at most 1: not measured" in lines
    assert "image encode s, 1280x720 / llama.cpp: -, at most 0.5: not measured" in lines


def test_the_page_has_a_column_a_peer_and_says_who_failed(results):
    peers = ["vlrt", "llama.cpp", "OpenVINO", "torch bf16"]
    text = page(results, SETTINGS, peers)
    assert "| 500x336, 3 rounds | vlrt | llama.cpp | OpenVINO (failed) | torch bf16 |" in text
    assert "| decode tokens/s | 30.0 | 30.0 | - | - |" in text
    assert "| package MB | 1990 | 2264 | - | - |" in text
    assert "**OpenVINO failed:** pip: exit status 1: no such wheel" in text
    assert "vlrt (int4 / int8): vlrt 1.0" in text
    rows = [line for line in tables(results, peers) if line.startswith("|")]
    assert {line.count("|") for line in rows} == {len(peers) + 2}


def test_json_and_the_kept_state_hold_everything(results, tmp_path):
    said = json.loads(json.dumps(as_json(results, SETTINGS)))
    assert said["medians"]["vlrt 500x336"]["first token s"] == 4.0
    assert said["failures"] == results.failures
    assert said["settings"]["checkpoint"] == "qwen2-vl-2b"
    assert len(said["rounds"]) == 6
    command.keep(tmp_path / "race.json", results)
    assert command.read(tmp_path / "race.json") == results


def test_rounds_share_neither_picture_nor_question(tmp_path):
    tasks = [task(tmp_path, (50, 34), number) for number in range(8)]
    pictures = [path for asked in tasks for path in (asked.before, asked.picture)]
    assert len({path.read_bytes() for path in pictures}) == 16
    assert Image.open(pictures[0]).size == (50, 34)
    assert len({asked.question for asked in tasks}) == len({asked.second for asked in tasks}) == 8
    assert len({len(asked.question) for asked in tasks}) == 1


def test_a_command_is_watched_and_its_failure_told(tmp_path):
    log = tmp_path / "log.txt"
    python = [sys.executable, "-c"]
    cost = watch([*python, "import time; x = b'1' * 50_000_000; time.sleep(1)"], log)
    assert cost.seconds >= 1
    assert 50 < cost.private_mb <= cost.rss_mb < 500
    with pytest.raises(PeerError, match=r"exit status 3: out of paper$"):
        watch([*python, "import sys; print('out of paper\\n'); sys.exit(3)"], log)
    with pytest.raises(PeerError, match="No such file"):
        watch([tmp_path / "absent"], log)


class Fake(RunnerPeer):
    """A peer whose runner has no model."""

    precision, tokens = "none", 4

    def install(self) -> None:
        if self.name == "uninstallable":
            raise PeerError("pip: exit status 1: no such wheel")

    def versions(self) -> dict[str, str]:
        return {"fake": "1"}

    def make(self, checkpoint: Path) -> Cost:
        self.package.mkdir()
        (self.package / "weights").write_bytes(bytes(1000))
        return Cost(1, 2, 3)

    def open(self, threads: int, new_tokens: int) -> Runner:
        script = RUNNER.replace("TOKENS", str(self.tokens))
        return Runner([sys.executable, "-c", script, RUNNERS], self.log)


def test_a_race_with_peers_that_fail(tmp_path, monkeypatch, capsys):
    """Processes and pipes are real. What fails is said, and the others go on."""
    kinds = {name: type(name, (Fake,), {"name": name}) for name in ("vlrt", "uninstallable")}
    kinds["brief"] = type("brief", (Fake,), {"name": "brief", "tokens": 3})
    monkeypatch.setattr(command, "PEERS", kinds)
    (checkpoint := tmp_path / "checkpoint").mkdir()
    (checkpoint / "config.json").write_text("{}")
    options = ["--checkpoint", checkpoint, "--work", tmp_path / "work", "--page", tmp_path / "p.md"]
    options += ["--peers", ",".join(kinds), "--sizes", "50x34", "--rounds", 2, "--new-tokens", 4]
    monkeypatch.setattr(sys, "argv", ["race", *map(str, options)])
    assert command.main() == 1
    out, err = capsys.readouterr()
    said = json.loads(out.splitlines()[-1])
    assert said["failures"] == {
        "uninstallable": "pip: exit status 1: no such wheel",
        "brief": "3 new tokens, expected 4",
    }
    assert [done["peer"] for done in said["rounds"]] == ["vlrt", "vlrt"]
    assert said["medians"]["vlrt 50x34"]["image encode s"] == 0.5
    assert said["medians"]["vlrt 50x34"]["peak RSS MB"] > 5
    assert said["medians"]["vlrt"]["package MB"] == 0.001
    assert "uninstallable FAILED" in err
    assert "**brief failed:** 3 new tokens" in (tmp_path / "p.md").read_text()

    monkeypatch.setattr(sys, "argv", [*sys.argv, "--add"])
    assert command.main() == 1
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["rounds"]) == 4


def test_a_runner_that_ends_says_why(tmp_path):
    with pytest.raises(PeerError, match=r"status 1: ImportError: no such library$"):
        Runner([sys.executable, "-c", "raise ImportError('no such library')"], tmp_path / "log")


def test_llama_cpp_is_timed_by_the_text_that_comes(tmp_path):
    (log := tmp_path / "log.txt").touch()
    chat = Chat([sys.executable, "-u", "-c", CHAT], log)
    try:
        pids = [chat.pid]
        for first in (True, False, True):
            answer = chat.ask(Path("a.jpg"), "What is it?", first=first)
            assert answer.tokens == 3
            assert answer.encode == (1.5 if first else None)
            assert answer.decode >= 0.09  # it waits between two pieces, whatever the machine does
            assert answer.ttft >= 0.09
            pids.append(chat.pid)
        assert pids[0] == pids[1] == pids[2] != pids[3]
    finally:
        chat.close()
