"""`vlrt bench` end to end on the tiny package."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from vlrt.bench.answer import answer
from vlrt.bench.measure import measure
from vlrt.bench.plan import QUESTION, picture_bytes
from vlrt.bench.record import Case, Record, Row, read_record
from vlrt.bench.worker import Task
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
        (["--sweep", "--caches"], "--caches"),
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


def test_a_package_without_an_encoder_is_told_before_anything_runs(
    small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    package = copied(small_package, tmp_path)
    manifest = json.loads((package / "manifest.json").read_bytes())
    del manifest["graphs"]["vision_encoder"]
    (package / "manifest.json").write_text(json.dumps(manifest))
    assert main(["bench", str(small_package), str(package), *QUICK]) == 2
    assert "no picture encoder; measure it with --image-size none" in capsys.readouterr().err


def test_a_damaged_package_fails_its_own_row_alone(small_package: Path, tmp_path: Path):
    package, out = copied(small_package, tmp_path), tmp_path / "a.json"
    graph = package / "decoder.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))
    packages = [str(small_package), str(package), str(small_package)]
    assert main(["bench", *packages, "--image-size", "none", *QUICK, "-o", str(out)]) == 1
    first, damaged, last = read_record(out).rows
    assert (first.ended, last.ended) == ("runs", "runs")
    assert damaged.ended.startswith("failed: ")
    assert "decoder.onnx" in damaged.ended
    assert damaged.runs == []


def test_a_worker_that_dies_leaves_its_runs(small_package: Path):
    case = Case(str(small_package), "cpu", 1, "none", None, 4)
    row = Row(case)

    def told(row: Row) -> None:
        if len(row.runs) == 2:
            for process in psutil.Process().children():
                process.kill()

    measure(Task(case, 0.0, 6, 100_000, 60.0), row, {}, told)
    assert row.ended.startswith("failed: its process ended with status -9")
    assert len(row.runs) >= 2
    assert row.components


def test_memory_is_the_workers_own(small_package: Path):
    case = Case(str(small_package), "cpu", 1, "none", None, 4)
    row, held = Row(case), np.ones(1 << 27)  # 1 GiB, resident when the worker starts
    measure(Task(case, 0.0, 1, 1, 60.0), row, {}, lambda _: None)
    assert row.memory["peak_rss"] < held.nbytes


def copied(package: Path, folder: Path) -> Path:
    return Path(shutil.copytree(package, folder / "copy"))


def test_an_interrupt_keeps_what_was_measured(small_package: Path, tmp_path: Path):
    out = tmp_path / "a.json"
    command = [sys.executable, "-m", "vlrt", "bench", str(small_package), "--no-probe"]
    command += ["--loads", "0", "--bound", "0", "--max-runs", "100000", "--image-size", "none"]
    command += ["--new-tokens", "4", "-o", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(10)  # by then the worker is at its runs, on a slow machine too
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    (row,) = read_record(out).rows
    assert row.ended == "interrupted"
    assert row.runs
