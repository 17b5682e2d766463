"""Messages in all their forms, and templates: what they may use, and what they may not."""

from __future__ import annotations

import re
from datetime import datetime

import pytest

from vlrt_runtime.chat import as_messages, compile_template
from vlrt_runtime.errors import InputError, PackageError

IMAGE = {"type": "image"}
HELLO = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def user(*parts: dict) -> dict:
    return {"role": "user", "content": list(parts)}


def render(source: str, messages=HELLO, **special_tokens: str) -> str:
    return compile_template(source, special_tokens)(messages)


# ------------------------------------------------------------------ messages


@pytest.mark.parametrize(
    ("prompt", "images", "messages", "pictures"),
    [
        ("hi", [], [user(text("hi"))], []),
        ("hi", ["a", "b"], [user(IMAGE, IMAGE, text("hi"))], ["a", "b"]),
        ([{"role": "user", "content": "hi"}], [], [user(text("hi"))], []),
        (
            [user(IMAGE, text("x")), {"role": "assistant", "content": "y"}, user(IMAGE)],
            ["a", "b"],
            [user(IMAGE, text("x")), {"role": "assistant", "content": [text("y")]}, user(IMAGE)],
            ["a", "b"],
        ),
        (
            [user({"type": "image", "image": "own"}, IMAGE, {"type": "image", "image": "too"})],
            ["a"],
            [user(IMAGE, IMAGE, IMAGE)],
            ["own", "a", "too"],
        ),
        ((user(text("a tuple")),), (), [user(text("a tuple"))], []),
        ([user({"type": "text", "text": "x", "image": "dropped"})], [], [user(text("x"))], []),
    ],
)
def test_prompts_come_to_one_form(prompt, images, messages, pictures):
    assert as_messages(prompt, images) == (messages, pictures)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([], "the list is empty; expected at least one user message"),
        (None, "prompt: NoneType, expected text or a list of messages"),
        (b"hi", "prompt: bytes, expected text"),
        (user(text("no list")), "prompt: dict, expected text or a list"),
        (["hi"], 'message 0: expected {"role": ..., "content": ...}, got \'hi\''),
        ([*HELLO, {"content": "x"}], "message 1: role None, expected system, user or assistant"),
        ([{"role": "tool", "content": "x"}], "message 0: role 'tool', expected system"),
        ([{"role": "user"}], "message 0: content is NoneType, expected text or list"),
        ([user({"type": "sound"})], 'a part is {"type": "text", "text": ...}'),
        ([user({"type": "text", "text": 3})], "got {'type': 'text', 'text': 3}"),
        ([{"role": "user", "content": ["words"]}], "got words"),
    ],
)
def test_malformed_messages_are_told_where(prompt, said):
    with pytest.raises(InputError, match=re.escape(said)):
        as_messages(prompt, [])


@pytest.mark.parametrize(("places", "given"), [(0, 1), (1, 0), (3, 2), (1, 4)])
def test_wrong_counts_name_both_numbers(places, given):
    with pytest.raises(InputError, match=f"images: {given} given, for {places} "):
        as_messages([user(*[IMAGE] * places, text("x"))], ["picture"] * given)


def test_long_rubbish_is_cut_short():
    with pytest.raises(InputError) as caught:
        as_messages([user({"type": "x" * 5000})], [])
    assert len(str(caught.value)) < 200


# ------------------------------------------------------------------ what templates may use


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% if true %}\na\n{% endif %}\nb", "a\nb"),  # trim_blocks
        ("  {% if true %}a{% endif %}", "a"),  # lstrip_blocks
        ("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{% for i in range(3) %}{% continue %}{{ i }}{% endfor %}-", "-"),
        ("a{% generation %}b{{ 1 }}{% endgeneration %}c", "ab1c"),
        ("{{ messages[0].role }}", "user"),
        ("{{ messages[0]['content'][0]['text'] }}", "hello"),
        ("{{ add_generation_prompt }}", "True"),
        ("{{ bos_token }}|{{ unknown }}", "<s>|"),
        ("{{ messages | tojson }}", str(HELLO).replace("'", '"')),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
        ("{{ '%s' | format('x') }}{{ ' y ' | trim }}", "xy"),
        ("{% set n = namespace(a=1) %}{% set n.a = 2 %}{{ n.a }}", "2"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(3) }}", "<3>"),
        ("{{ strftime_now('%%') }}", "%"),
    ],
)
def test_what_the_reference_gives_them_is_there(source, expected):
    assert render(source, bos_token="<s>") == expected


def test_the_date_is_todays():
    before = datetime.now().strftime("%d %b %Y")
    assert render("{{ strftime_now('%d %b %Y') }}") in {
        before,
        datetime.now().strftime("%d %b %Y"),
    }


@pytest.mark.parametrize("name", ["messages", "self", "add_generation_prompt"])
def test_special_tokens_take_no_other_names(name):
    assert compile_template("{{ messages[0].role }}", {name: "x"})(HELLO) == "user"


def test_refusals_are_the_templates_own_words():
    with pytest.raises(InputError, match=r"it refuses these messages: No system line, please$"):
        render("{{ raise_exception('No system line, please') }}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError division by zero"),
        ("{{ unknown.role }}", "'unknown' is undefined"),
        ("{{ 'a' + 1 }}", "can only concatenate"),
        ("{{ 'a'.encode('utf-9') }}", "LookupError"),
        ("{{ strftime_now(3) }}", "must be str"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{% include 'other' %}", "no loader"),
    ],
)
def test_a_template_that_fails_is_a_refusal(source, said):
    with pytest.raises(InputError, match=said):
        render(source)


@pytest.mark.parametrize(
    "source", ["{% if", "{{ }", "{% nothing %}", "{{ 'x' | nofilter }}", "{{ " + "(" * 5000]
)
def test_a_template_that_cannot_be_parsed_is_a_damaged_package(source):
    with pytest.raises(PackageError, match=r"it is damaged: .*; export the package again"):
        compile_template(source, {})


# ------------------------------------------------------------------ what templates may not


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ dict.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ strftime_now.__globals__.datetime }}",
        "{{ namespace(a=1).__init__.__globals__ }}",
        "{{ messages | map(attribute='__class__') | list | first | attr('__name__') ~ x.y }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ messages[0]['content'].clear() }}",
        "{{ messages[0].__setitem__('role', 'system') }}",
        "{{ '{0.__class__.__mro__}'.format('').x.y }}",
        "{{ range(1000000) | length }}",
    ],
)
def test_the_sandbox_holds(source):
    messages = [{"role": "user", "content": [text("hello")]}]
    with pytest.raises(InputError, match="chat template"):
        render(source, messages)
    assert messages == HELLO


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception.__globals__ }}",
        "{{ '' | attr('__class__') }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ self._TemplateReference__context }}",
    ],
)
def test_what_is_not_refused_is_empty(source):
    assert render(source) == ""
