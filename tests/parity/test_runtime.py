"""Chat templates and the repetition penalty against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.pictures import picture
from support.tiny.qwen2_vl import make_qwen2_vl
from support.tiny.qwen2_vl_text import CHAT_TEMPLATE
from vlrt.verify.reference import load_reference
from vlrt_export.exporter import export
from vlrt_runtime.chat import as_messages, compile_template
from vlrt_runtime.errors import InputError
from vlrt_runtime.greedy import penalize
from vlrt_runtime.model import Model

torch = pytest.importorskip("torch", reason="the reference is transformers on torch")
transformers = pytest.importorskip("transformers", reason="the reference is transformers")

IMAGE = {"type": "image"}


def turn(role: str, *parts: Any) -> dict[str, Any]:
    words = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": role, "content": words}


CHATS: dict[str, list[dict[str, Any]]] = {
    "text": [turn("user", "hi")],
    "empty text": [turn("user", "")],
    "pictures": [turn("user", IMAGE, "a", IMAGE, "b")],
    "own system line": [turn("system", "Be brief."), turn("user", IMAGE, "?")],
    "turns": [turn("user", IMAGE, "?"), turn("assistant", "That."), turn("user", IMAGE, "!")],
    "odd characters": [turn("user", "  <b> & \"q\" 'p'\n\n\t请😀 {{ x }} {% if %} ")],
    "plain content": [{"role": "user", "content": "words"}],
}
# What published templates use besides: blocks, loop controls, filters, tests, macros, namespaces.
TEMPLATES = {
    "qwen2-vl": CHAT_TEMPLATE,
    "blocks": """
  {% for message in messages %}
    {% if loop.first and message.role == 'system' %}
      {% continue %}
    {% endif %}
  {{ loop.index }}|{{ message['role'] | upper }}:
    {% generation %}
  {{ message.content | tojson }}
    {% endgeneration %}
  {% endfor %}
  {{ bos_token }}{{ eos_token }}{{ pad_token is defined }}{{ add_generation_prompt }}
""",
    "filters": """{% set n = namespace(s='') %}{% for m in messages %}
{% for p in m.content if p is mapping %}{% if p.type == 'text' %}
{% set n.s = n.s ~ (p.text | trim | replace('a', 'b')) %}{% endif %}
{% endfor %}{% if loop.last %}{% break %}{% endif %}{% endfor %}{{ n.s | length }}{{ n.s }}
{{- {'k': [1, 2.5, none, true], 'e': 'é<>&'} | tojson(indent=2) }}{{ strftime_now('%Y') | length }}
""",
}


@pytest.fixture(scope="module")
def tokenizer(small_qwen2_vl: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(small_qwen2_vl)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("chat", CHATS)
def test_templates_render_the_same_text(tokenizer: Any, chat: str, template: str):
    messages, _ = as_messages(CHATS[chat], [0] * str(CHATS[chat]).count("'image'"))
    expected = tokenizer.apply_chat_template(
        messages, chat_template=TEMPLATES[template], tokenize=False, add_generation_prompt=True
    )
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    assert compile_template(TEMPLATES[template], special)(messages) == expected


def test_a_refusal_is_the_same_refusal(tokenizer: Any):
    template = "{{ raise_exception('Conversation roles must alternate') }}"
    with pytest.raises(Exception, match="Conversation roles must alternate"):
        tokenizer.apply_chat_template(CHATS["text"], chat_template=template, tokenize=False)
    with pytest.raises(InputError, match="Conversation roles must alternate"):
        compile_template(template, {})(CHATS["text"])


@pytest.mark.parametrize("penalty", [1.0, 1.05, 1.3, 2.0, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_the_penalty_is_the_processors(penalty: float, seed: int):
    draws = np.random.default_rng(seed)
    logits = draws.normal(0, 5, 300).astype(np.float32)
    logits[:10] = 0
    seen = draws.integers(0, 300, 80).tolist() + list(range(5))
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([seen]), torch.from_numpy(logits)[None].clone())[0].numpy()
    penalize(logits, seen, penalty)
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_the_checkpoints_penalty_is_honoured(tmp_path: Path, penalty: float):
    folder = make_qwen2_vl(tmp_path / "checkpoint", vocabulary="small")
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text("utf-8")) | {"repetition_penalty": penalty}
    path.write_text(json.dumps(settings), "utf-8")
    reference = load_reference(folder, "qwen2_vl")
    image = picture(90, 60)
    expected = reference.run(reference.inputs([turn("user", IMAGE, "hi")], [image]), 24)
    assert expected.margins.min() > 1e-3, "near ties: this prompt proves nothing"
    model = Model(export(folder, tmp_path / "package", precision="fp32"), threads=1)
    answer = model.generate("hi", images=[image], max_new_tokens=24)
    assert answer.token_ids == expected.token_ids
    model.choose = lambda logits, *_: int(np.argmax(logits))
    without = model.generate("hi", images=[image], max_new_tokens=24)
    assert without.token_ids != answer.token_ids, "the penalty made no difference: nothing is shown"
