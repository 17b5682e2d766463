"""The file, comparing two of them, sweeps and the page, on made samples."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest

from vlrt.bench.compare import compare, fraction, remarks
from vlrt.bench.record import SCHEMA_VERSION, Case, Record, Row, Run, read_record
from vlrt.bench.report import as_html
from vlrt.bench.svg import dots, line
from vlrt.bench.sweep import encode_fit, findings, recommended_threads
from vlrt.bench.table import as_csv, as_markdown
from vlrt.cli import main
from vlrt_runtime.errors import InputError


def made_row(scale: float = 1.0, noise: float = 0.01, seed: int = 0, **case: object) -> Row:
    rng = np.random.default_rng(seed)
    runs: list[Run] = []
    for i in range(12):
        f = scale * rng.normal(1, noise)
        tokens = [30 * f * rng.normal(1, noise) for _ in range(4)]
        stages = {"preprocess": 5 * f, "encode": 900 * f, "project": 9 * f, "prefill": 800 * f}
        stages |= {"ttft": 1714 * f, "tpot": sum(tokens) / 4, "total": 1714 * f + sum(tokens)}
        runs.append(Run(stages, tokens, float(2 * i), mhz=2600.0))
    asked = {"package": "m", "device": "cpu", "threads": 2, "image": "500x336"}
    asked |= {"prompt_tokens": None, "new_tokens": 5}
    return Row(
        Case(**(asked | case)),  # pyright: ignore[reportArgumentType]
        ended="steady",
        runs=runs,
        loads={"load_cold": [900.0, 950.0]},
        counts={"image_tokens": 216, "prompt_tokens": 240, "new_tokens": 5, "encoder_rows": 864},
        memory={"peak_rss": 10**9},
        digest="ab",
        limits={"decode_of_bandwidth": 0.9, "encode_of_throughput": 1.2},
    )


def made_record(*rows: Row) -> Record:
    machine = {"read_bytes_per_s": 3e10, "flops": 1e11}
    return Record(SCHEMA_VERSION, {"cpu": "<C&PU>", "cores": 2, "versions": {}}, machine, [*rows])


def saved(path: Path, record: Record) -> str:
    path.write_bytes(record.to_json())
    return str(path)


def test_what_is_written_is_read(tmp_path: Path):
    record = made_record(made_row())
    path = saved(tmp_path / "a.json", record)
    assert read_record(path) == record
    summary = json.loads(Path(path).read_bytes())["rows"][0]["summary"]["encode"]
    assert summary["count"] == 12
    assert summary["median"] == pytest.approx(np.median(record.rows[0].samples("encode")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "not a benchmark"),
        ('{"schema_version": 9}', "expected 1"),
        ("nothing", "not a benchmark"),
        ('{"schema_version": 1, "rows": 3}', "not a benchmark"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, said: str):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match=said):
        read_record(path)


@pytest.mark.parametrize(
    ("scale", "noise", "verdict", "status"),
    [
        (1.0, 0.01, "no difference shown", 0),
        (1.2, 0.01, "slower", 3),
        (0.8, 0.01, "faster", 0),
        (1.02, 0.3, "no difference shown", 0),
        (1.03, 0.002, "slower", 0),  # shown, but under 5 %
    ],
)
def test_compare(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    scale: float,
    noise: float,
    verdict: str,
    status: int,
):
    a, b = made_record(made_row(noise=noise)), made_record(made_row(scale, noise, seed=1))
    assert {d.ratio.verdict for d in compare(a, b) if d.figure == "ttft"} == {verdict}
    files = [saved(tmp_path / "a.json", a), saved(tmp_path / "b.json", b)]
    assert main(["bench", "--compare", *files, "--fail-slower", "5%"]) == status
    assert verdict in capsys.readouterr().out


def test_answers_that_should_agree_and_do_not_are_told():
    a, b = made_record(made_row()), made_record(made_row())
    assert remarks(a, b) == []
    b.rows[0].digest = "cd"
    assert "should not" in remarks(a, b)[0]
    b.rows[0].package_sha256 = "other"
    assert "packages differ" in remarks(a, b)[0]


def test_files_without_a_common_row_are_refused():
    with pytest.raises(InputError, match="no row is in both"):
        compare(made_record(made_row()), made_record(made_row(threads=1)))


def test_shares():
    assert (fraction("5%"), fraction("0.05")) == (0.05, 0.05)
    with pytest.raises(InputError):
        fraction("five")


def sized(n: int, ms: float) -> Row:
    row = made_row()
    row.counts = {"encoder_rows": n}
    row.runs = [Run({"encode": ms}, [], 0.0)]
    return row


def test_the_fit_finds_the_form_it_was_made_of():
    rows = [sized(n, 0.5 * n + 2e-4 * n * n) for n in (256, 576, 1024, 4096)]
    assert encode_fit(rows) == pytest.approx((0.5, 2e-4, 0.0), abs=1e-9)
    rows = [sized(n, 0.5 * n - 1e-5 * n * n) for n in (256, 576, 1024, 4096)]
    fit = encode_fit(rows)
    assert fit is not None
    assert fit[1] == 0  # no negative attention
    assert encode_fit(rows[:2]) is None


def test_the_fewest_threads_that_are_nearly_the_quickest():
    rows = [made_row(s, 0, threads=t) for t, s in ((1, 2.0), (2, 1.02), (3, 1.0), (4, 1.1))]
    assert recommended_threads(rows) == 2


def swept(tokens: int, scale: float, seed: int) -> Row:
    row = made_row(scale, image="none", prompt_tokens=tokens, seed=seed)
    row.counts = {"prompt_tokens": tokens, "encoder_rows": 0}
    return row


def test_a_sweep_tells_growth_only_where_it_is_shown():
    (said,) = findings([swept(64, 1.0, 0), swept(1064, 1.2, 1)])
    assert "more for every 1,000 of context" in said
    (said,) = findings([swept(64, 1.0, 0), swept(1064, 1.0, 0)])
    assert "no growth" in said


def test_tables_show_every_row():
    record = made_record(made_row(), made_row(threads=1))
    assert as_markdown(record).count("\n") == 4
    lines = as_csv(record).splitlines()
    assert len(lines) == 1 + 2 * 9
    assert "m,cpu,2,500x336,,5,False,load_cold,925," in lines[1]


class Page(HTMLParser):
    """Checks nesting and collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link"):
            self.open.append(tag)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone():
    page = Page()
    text = as_html(made_record(made_row(), made_row(image="<b>&.png")))
    page.feed(text)
    assert page.open == []
    assert page.fetched == ["data:,"]
    assert "<b>" not in text
    assert "<script" not in text
    assert "&lt;C&amp;PU&gt;" in text


def test_an_outlier_is_as_far_from_the_median_as_it_was_slower():
    chart = dots([("m", [100.0, 100.0, 250.0])])
    assert "-60.0%" in chart  # as quick as the outlier was slow
    assert "+150.0%" in chart


def test_the_page_opens_in_chromium_without_a_word(tmp_path: Path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    page = tmp_path / "report.html"
    page.write_text(as_html(made_record(made_row(), made_row(threads=1))))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--enable-logging"]
    command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    assert "CONSOLE" not in done.stderr
    for label in ("m 500x336 2t", "m 500x336 1t"):
        assert done.stdout.count(label) >= 4


def test_rows_survive_msgspec():
    row = made_row()
    assert msgspec.convert(msgspec.to_builtins(row), Row) == row


@pytest.mark.parametrize(
    ("largest", "marks"),
    [
        (37.2, ["0", "10", "20", "30", "40"]),
        (537, ["0", "150", "300", "450", "600"]),
        (1955, ["0", "500", "1,000", "1,500", "2,000"]),
        (0.4, ["0", "0.1", "0.2", "0.3", "0.4"]),
    ],
)
def test_axes_end_at_short_numbers(largest: float, marks: list[str]):
    drawn = line([("a", [(0, largest / 2), (1, largest)])], "s")
    assert re.findall(r'text-anchor="end"[^>]*>([^<]+)<', drawn)[: len(marks)] == marks
