"""Small charts as inline SVG; their colours are the page's, so that dark mode is its choice."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import expm1, floor, log, log10
from statistics import median

__all__ = ["dots", "gauge", "line", "stacked"]

WIDTH = 640
ROW = 54


def stacked(bars: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: str = "ms") -> str:
    """Horizontal bars of parts: (label, [(part, value)]); parts are coloured by their order."""
    most = max((sum(v for _, v in parts) for _, parts in bars), default=0.0) or 1.0
    body: list[str] = []
    for i, (label, parts) in enumerate(bars):
        y, x = ROW * i, 0.0
        total = sum(v for _, v in parts)
        body.append(_text(0, y + 18, label))
        body.append(_text(WIDTH, y + 18, f"{_number(total)} {unit}", "end"))
        for k, (name, value) in enumerate(parts):
            width = WIDTH * value / most
            title = f"<title>{escape(name)}: {_number(value)} {unit}</title>"
            body.append(
                f'<rect class="c{k}" x="{x:.1f}" y="{y + 27}" width="{width:.1f}" height="16">'
                f"{title}</rect>"
            )
            x += width
    return _svg(ROW * len(bars), body, "stages")


def dots(rows: Sequence[tuple[str, Sequence[float]]], unit: str = "ms") -> str:
    """Every sample as a dot, by its ratio to its row's median, on a log scale: (label, samples)."""
    middles = [median(values) for _, values in rows]
    far = max(abs(log(v / m)) for (_, vs), m in zip(rows, middles, strict=True) for v in vs)
    far = far or 0.01
    body: list[str] = []
    for i, ((label, values), middle) in enumerate(zip(rows, middles, strict=True)):
        y = ROW * i
        body.append(_text(0, y + 18, label))
        body.append(_text(WIDTH, y + 18, f"{_number(middle)} {unit}", "end"))
        body.append(f'<line class="axis" x1="0" x2="{WIDTH}" y1="{y + 36}" y2="{y + 36}"/>')
        for value in values[:400]:
            x = WIDTH / 2 + (WIDTH / 2 - 6) * log(value / middle) / far
            body.append(
                f'<circle class="dot" cx="{x:.1f}" cy="{y + 36}" r="4">'
                f"<title>{_number(value)} {unit}</title></circle>"
            )
        x = WIDTH / 2
        body.append(f'<line class="mid" x1="{x}" x2="{x}" y1="{y + 28}" y2="{y + 44}"/>')
    y = ROW * len(rows)
    body += [_text(0, y + 18, f"{expm1(-far):.1%}", "start", "small")]
    body += [_text(WIDTH / 2, y + 18, "median", "middle", "small")]
    body += [_text(WIDTH, y + 18, f"+{expm1(far):.1%}", "end", "small")]
    return _svg(y + 26, body, "samples")


def line(series: Sequence[tuple[str, Sequence[tuple[float, float]]]], x_unit: str) -> str:
    """Curves over a common x, y from zero: (label, [(x, y)])."""
    points = [p for _, values in series for p in values]
    right = max((x for x, _ in points), default=1.0) or 1.0
    top = _round_top(max((y for _, y in points), default=1.0) or 1.0)
    height, left = 220, 72
    body: list[str] = []
    for k in range(5):
        y = height - height * k / 4
        body.append(f'<line class="axis" x1="{left}" x2="{WIDTH}" y1="{y}" y2="{y}"/>')
        body.append(_text(left - 6, min(height, y + 4) or 10, _number(top * k / 4), "end", "small"))
    for k, (label, values) in enumerate(series):
        path = " ".join(
            f"{left + (WIDTH - left) * x / right:.1f},{height - height * y / top:.1f}"
            for x, y in values
        )
        body.append(
            f'<polyline class="s{k % 8}" points="{path}"><title>{escape(label)}</title></polyline>'
        )
        if len(values) == 1:  # a line of one point is not drawn
            x, y = path.split(",")
            body.append(f'<circle class="dot" cx="{x}" cy="{y}" r="5"/>')
    body.append(_text(left, height + 22, "0", "start", "small"))
    body.append(_text(WIDTH, height + 22, f"{right:.3g} {x_unit}", "end", "small"))
    return _svg(height + 30, body, "over time", top=16)


def gauge(label: str, share: float) -> str:
    """A share of a limit; beyond the limit the bar is full and the number says so."""
    width = WIDTH * min(share, 1.0)
    body = [
        _text(0, 18, label),
        _text(WIDTH, 18, f"{share:.0%}", "end"),
        f'<rect class="track" x="0" y="27" width="{WIDTH}" height="12"/>',
        f'<rect class="c1" x="0" y="27" width="{width:.1f}" height="12"/>',
    ]
    return _svg(46, body, label)


def _round_top(largest: float) -> float:
    """The end of an axis whose four equal parts end at short numbers."""
    power = 10.0 ** floor(log10(largest / 4))
    return 4 * next(
        n * power for n in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if 4 * n * power >= largest
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "label") -> str:
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'


def _svg(height: float, body: list[str], name: str, top: float = 0) -> str:
    box = f"0 {-top:g} {WIDTH} {height + top:g}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(name)}">{"".join(body)}</svg>'
