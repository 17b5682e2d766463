"""A benchmark as one HTML page: no network, no script, light and dark, readable on a phone."""

from __future__ import annotations

from html import escape

from vlrt.bench import svg
from vlrt.bench.record import Record, Row
from vlrt.bench.table import HEADERS, headline, machine_text, milliseconds, remarks

__all__ = ["as_html"]

PARTS = ("preprocess", "encode", "project", "prefill", "decode")
GAUGES = {
    "decode_of_bandwidth": "decode, of memory bandwidth",
    "prefill_of_throughput": "prefill, of matmul throughput at its precision",
    "encode_of_throughput": "encode, of matmul throughput at its precision",
}
STYLE = """
:root { color-scheme: light dark; --bg: #fbfbfa; --fg: #1d1f22; --dim: #5f6670; --rule: #d9dcdf;
  --a: #7a869a; --b: #2f6fd6; --c: #17a2a2; --d: #e08a1e; --e: #8754c9; }
@media (prefers-color-scheme: dark) { :root { --bg: #15171a; --fg: #e7e9ec; --dim: #9aa3ae;
  --rule: #343a41; --a: #8b97aa; --b: #6ea3ff; --c: #45c9c5; --d: #f3ac52; --e: #b58cf0; } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.25rem; max-width: 64rem; background: var(--bg); color: var(--fg);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem }
p, li { color: var(--dim) } p { margin: .25rem 0 .75rem } .warn { color: var(--d) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .55rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule) }
th:first-child, td:first-child { text-align: left; padding-left: 0 } th { color: var(--dim) }
svg { display: block; overflow: visible; max-width: 48rem; width: 100%; height: auto;
  margin: .25rem 0 }
text { fill: var(--fg); font-size: 14px } .small { fill: var(--dim); font-size: 12px }
.c0 { fill: var(--a) } .c1 { fill: var(--b) } .c2 { fill: var(--c) } .c3 { fill: var(--d) }
.c4 { fill: var(--e) } .track, .axis { fill: var(--rule); stroke: var(--rule) }
.dot { fill: var(--b); fill-opacity: .45 } .mid { stroke: var(--fg); stroke-width: 2 }
polyline { fill: none; stroke-width: 2 } .s0, .s5 { stroke: var(--b) } .s1, .s6 { stroke: var(--d) }
.s2, .s7 { stroke: var(--c) } .s3 { stroke: var(--e) } .s4 { stroke: var(--a) }
.key { display: flex; flex-wrap: wrap; gap: .25rem 1rem; color: var(--dim); font-size: .9rem }
.key i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; border-radius: 2px }
@media (max-width: 34rem) { text { font-size: 22px } .small { font-size: 20px } }
"""
COLOURS = "abcde"
SERIES = "bdceabdc"


def as_html(record: Record) -> str:
    """The page."""
    rows = [row for row in record.rows if row.runs]
    environment = record.environment
    parts = [
        f"<h1>vlrt bench</h1><p>{escape(str(environment.get('cpu')))}, "
        f"{environment.get('cores')} cores, {escape(str(environment.get('time')))}</p>",
        _table([HEADERS, *map(headline, record.rows)], "headline"),
        "<p>Medians; tokens are text + picture, new.</p>",
    ]
    parts += [
        f'<p class="warn">{escape(f"{row.case.label}: {note}")}</p>'
        for row in record.rows
        for note in row.notes + ([row.ended] if row.ended.startswith("failed") else [])
    ]
    if rows:
        parts += [
            "<h2>Where the time goes</h2>",
            _key(PARTS, COLOURS),
            svg.stacked([(row.case.label, _stages(row)) for row in rows]),
            "<h2>Time to first token, every run, by its distance from the median</h2>",
            svg.dots([(row.case.label, row.samples("ttft")) for row in rows]),
        ]
    if series := [(row.case.label, values) for row in rows if (values := _speed(row))]:
        parts += [
            "<h2>Decode speed over time</h2><p>Tokens a second, each run's mean.</p>",
            _key([label for label, _ in series[:8]], SERIES),
            svg.line(series, "s"),
        ]
    if any(row.limits for row in rows):
        measured = machine_text(record.machine)
        parts.append(f"<h2>Share of this machine's limits</h2><p>It {measured}.</p>")
        for row in rows:
            parts.append(f"<h3>{escape(row.case.label)}</h3>")
            parts += [svg.gauge(GAUGES[n], share) for n, share in row.limits.items()]
    parts.append("<h2>All figures</h2>")
    for row in record.rows:
        parts += [f"<h3>{escape(row.case.label)}</h3>", _figures(row), _list(remarks(row))]
    known = [(k, ", ".join(map(str, _items(v)))) for k, v in environment.items()]
    parts += ["<h2>Environment</h2>", _table([["", ""], *map(list, known)], "environment")]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return (
        f'<!doctype html><html lang="en"><head>{head}<link rel="icon" href="data:,">'
        f"<title>vlrt bench</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _stages(row: Row) -> list[tuple[str, float]]:
    medians = {name: s.median for name, s in row.summaries().items()}
    medians["decode"] = max(0.0, medians["total"] - medians["ttft"])
    return [(name, medians.get(name, 0.0)) for name in PARTS]


def _speed(row: Row) -> list[tuple[float, float]]:
    return [(run.at, 1e3 / run.stages["tpot"]) for run in row.runs if run.stages.get("tpot")]


def _figures(row: Row) -> str:
    lines = [["stage", "median", "p90", "p99", "sd", "n"]]
    for figure, s in row.summaries().items():
        cells = [milliseconds(v) for v in (s.median, s.p90, s.p99, s.sd)]
        lines.append([figure.replace("_", " "), *cells, str(s.count)])
    return _table(lines, "figures")


def _table(lines: list[list[str]], name: str) -> str:
    head, *body = lines
    cells = "".join(f"<th>{escape(c)}</th>" for c in head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(c)}</td>" for c in line) + "</tr>" for line in body
    )
    return f'<div class="wide"><table class="{name}"><tr>{cells}</tr>{rows}</table></div>'


def _list(lines: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _key(names: list[str] | tuple[str, ...], colours: str) -> str:
    items = (
        f'<span><i style="background:var(--{c})"></i>{escape(n)}</span>'
        for n, c in zip(names, colours, strict=False)
    )
    return f'<div class="key">{"".join(items)}</div>'


def _items(value: object) -> list[object]:
    if isinstance(value, dict):
        return [f"{k} {v}" for k, v in value.items()]  # pyright: ignore[reportUnknownVariableType]
    return value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]
