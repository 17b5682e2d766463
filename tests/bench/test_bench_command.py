"""`vlrt bench` end to end on the tiny package."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlrt.bench.answer import answer
from vlrt.bench.plan import QUESTION, picture_bytes
from vlrt.bench.record import Record, read_record
from vlrt.cli import main
from vlrt_runtime.model import Model

QUICK = ["--no-probe", "--loads", "1", "--max-seconds", "2", "--max-runs", "3", "--new-tokens", "4"]


def test_stages_by_hand_are_the_models_own_answer(small_package: Path):
    model = Model(small_package)
    picture = picture_bytes("96x64")
    made = answer(model, QUESTION, [picture], 8)
    said = model.generate(QUESTION, images=[picture], max_new_tokens=8)
    assert made.token_ids[: len(said.token_ids)] == said.token_ids
    assert len(made.token_ids) == 8
    assert made.counts["image_tokens"] == said.image_tokens
    assert made.counts["prompt_tokens"] == said.prompt_tokens
    stages = made.run.stages
    before = sum(stages[name] for name in ("preprocess", "encode", "project", "prefill"))
    assert before <= stages["ttft"] <= stages["total"]
    assert stages["total"] == pytest.approx(stages["ttft"] + sum(made.run.tokens))


def test_every_combination_is_a_row(
    small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, page = tmp_path / "a.json", tmp_path / "a.html"
    options = ["--image-size", "96x64,none", "--prompt-tokens", "64", "--threads", "1,2"]
    command = ["bench", str(small_package), *options, *QUICK]
    assert main([*command, "-o", str(out), "--report", str(page)]) == 0
    record = read_record(out)
    assert [(r.case.threads, r.case.image) for r in record.rows] == [
        (1, "96x64"), (1, "none"), (2, "96x64"), (2, "none"),
    ]  # fmt: skip
    for row in record.rows:
        assert row.ended == "runs"
        assert len(row.runs) == 3
        assert all(len(run.tokens) == 3 for run in row.runs)
        text = row.counts["prompt_tokens"] - row.counts["image_tokens"]
        assert 60 <= text <= 64
        assert (row.counts["image_tokens"] > 0) == (row.case.image != "none")
        assert row.memory["peak_rss"] > 10**6
        assert row.loads["load_warm"][0] > 0
        assert set(row.components) == {"vision_encoder", "projector", "decoder", "embedding"}
    assert len({row.digest for row in record.rows if row.case.image == "none"}) == 1
    assert "stopped at the limit of runs" in capsys.readouterr().out
    assert page.read_text().count("<svg") >= 3


def test_a_second_question_about_a_picture_takes_what_the_first_left(
    small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "a.json"
    command = ["bench", str(small_package), "--image-size", "96x64", "--caches", *QUICK]
    assert main([*command, "-o", str(out)]) == 0
    whole, second = read_record(out).rows
    assert (whole.case.caches, second.case.caches) == (False, True)
    assert whole.counts["cached_tokens"] == 0
    assert second.counts["cached_tokens"] > second.counts["image_tokens"] > 0
    assert len(whole.samples("encode")) == 3
    assert second.samples("encode") == []  # every time: nothing is added that a run could find
    assert second.digest == whole.digest
    assert "kept" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["json", "jsonl", "md", "csv"])
def test_formats(small_package: Path, capsys: pytest.CaptureFixture[str], form: str):
    command = ["bench", str(small_package), "--image-size", "none", *QUICK, "--loads", "0"]
    assert main([*command, "--format", form]) == 0
    out = capsys.readouterr().out
    if form == "json":
        assert Record.__struct_fields__ == tuple(json.loads(out))
    elif form == "jsonl":
        assert json.loads(out)["counts"]["new_tokens"] == 4
    else:
        assert "small" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--image-size", "big"], "big"),
        (["--image-size", "0x9"], "expected 1x1"),
        (["--prompt-tokens", "1"], "template"),
        (["--new-tokens", "99999999"], "context is"),
        (["--threads", "none"], "expected numbers"),
        (["--threads", "4096"], "may use"),
        (["--device", "tpu"], "tpu"),
        (["--fail-slower", "5%"], "--compare"),
        (["-o", "/no/such/folder/a.json"], "folder"),
    ],
)
def test_wrong_combinations_are_told_before_anything_runs(
    small_package: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
):
    assert main(["bench", str(small_package), *options]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1


def test_an_interrupt_keeps_what_was_measured(small_package: Path, tmp_path: Path):
    out = tmp_path / "a.json"
    command = [sys.executable, "-m", "vlrt", "bench", str(small_package), "--no-probe"]
    command += ["--loads", "0", "--bound", "0", "--max-runs", "100000", "--image-size", "none"]
    command += ["--new-tokens", "4", "-o", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(5)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    (row,) = read_record(out).rows
    assert row.ended == "interrupted"
    assert row.runs
