"""Templates that would not end, or would fill memory, are refused; others say what they said."""

from __future__ import annotations

import time
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vlrt_runtime import sandbox
from vlrt_runtime.chat import compile_template
from vlrt_runtime.errors import InputError

HELLO = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]


def render(source: str) -> str:
    return compile_template(source, {})(HELLO)


def test_an_endless_text_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sandbox, "MAX_TEXT", 10_000)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
    with pytest.raises(InputError, match="they become more than 10000 characters"):
        render(loop)
    assert len(render("{% for a in range(9999) %}x{% endfor %}")) == 9999


DOUBLED = "{% set n = namespace(v='x') %}{% for i in range(60) %}{% set n.v = VALUE %}{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) if a < 0 %}{% endfor %}" * 200,
        "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        DOUBLED.replace("'x'", "[]").replace("VALUE", "[n.v, n.v]")
        + "{% for a in n.v recursive %}{{ loop(a) }}{% endfor %}",
    ],
)
def test_what_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, source: str):
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"it takes more than 0\.2 s"):
        render(source)
    assert time.monotonic() - started < 5
    monkeypatch.setattr(sandbox, "SECONDS", 10.0)
    assert render("{{ messages[0].role }}") == "user"  # the clock is set anew


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10 ** 11 }}",
        "{{ 10 ** 11 * [1] }}",
        DOUBLED.replace("VALUE", "n.v ~ n.v"),
        DOUBLED.replace("VALUE", "n.v + n.v"),
        DOUBLED.replace("'x'", "[1]").replace("VALUE", "n.v + n.v"),
    ],
)
def test_what_would_fill_memory_is_refused(source: str):
    with pytest.raises(InputError, match=r"they become more than \d+ characters"):
        render(source)


@pytest.mark.parametrize(
    "source", ["{{ 9 ** 99999 }}", DOUBLED.replace("'x'", "3").replace("VALUE", "n.v * n.v")]
)
def test_numbers_without_end_are_refused(source: str):
    with pytest.raises(InputError, match="a number becomes longer than 4096 bits"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in 'abc' %}{{ loop.index }}/{{ loop.length }}{{ m }}{{ loop.last }}{% endfor %}",
        "{% for m in [1, 2, 2] %}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.changed(m) }}"
        "{{ loop.cycle('a', 'b') }}{{ loop.revindex0 }}{% endfor %}",
        "{% for k, v in {'a': 1}.items() %}{{ k ~ v ~ 1.5 ~ none ~ nowhere }}{% endfor %}",
        "{% for m in nowhere %}x{% else %}empty{% endfor %}",
        "{% for m in [3, 1, 2] | sort if m > 1 %}{{ m }}{{ loop.first }}{% endfor %}",
        "{% for m in [[1, [2]], [3]] recursive %}{{ loop.depth }}"
        "{{ loop(m) if m is iterable else m }}{% endfor %}",
        "{% macro f(a) %}<{{ a }}{{ caller() }}>{% endmacro %}{% call f(2) %}x{% endcall %}",
        "{{ 'ab' * 3 }}{{ [1] * 2 + [3] }}{{ 2 ** 10 }}{{ 2 ** -1 }}{{ 1.5 * 2 }}{{ 7 + 0.5 }}",
        "{{ 3 * -1 }}{{ 'x' * -1 }}{{ true + 1 }}{{ (1, 2) + (3,) }}{{ 0 ** 0 }}",
    ],
)
def test_everything_else_is_as_in_jinja(source: str):
    plain: Any = ImmutableSandboxedEnvironment()
    assert render(source) == plain.from_string(source).render(messages=HELLO)
