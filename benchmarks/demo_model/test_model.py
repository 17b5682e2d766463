"""The fast forward computes what transformers' class computes, packed questions included."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks.demo_model import model as M  # noqa: E402
from benchmarks.demo_model import tokenizer as tok  # noqa: E402
from benchmarks.demo_model.batches import Batcher  # noqa: E402
from benchmarks.demo_model.export import CHAT_TEMPLATE  # noqa: E402

GRID = (5, 4)


@pytest.fixture(scope="module")
def setup():
    torch.manual_seed(0)
    tokenizer = tok.build()
    ids = {s: tokenizer.token_to_id(s) for s in tok.SPECIAL}
    model = M.build(ids, tokenizer.get_vocab_size()).eval()
    with torch.no_grad():
        for p in model.parameters():  # away from biases of 0 and norms of 1, which hide mistakes
            p.add_(0.05 * torch.randn_like(p))
    batch = Batcher(tokenizer).batch(0, 2, GRID)
    patches = batch.patches.view(-1, 3, 1, M.PATCH**2).expand(-1, 3, 2, -1).flatten(1)
    grid = torch.tensor([[1, 2 * GRID[1], 2 * GRID[0]]])
    return model, ids, batch, patches, grid


@torch.no_grad()
def test_encoder(setup):
    model, _, batch, patches, grid = setup
    ours = M.encode(M.weights(model, torch.float32), batch.patches, GRID)
    reference = model.model.visual(patches, grid_thw=grid.repeat(2, 1)).pooler_output
    torch.testing.assert_close(ours.flatten(0, 1), reference, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_packed_questions_equal_each_alone(setup):
    model, ids, batch, patches, grid = setup
    w, t = M.weights(model, torch.float32), batch.text
    x = M.splice(w, t.ids, M.encode(w, batch.patches, GRID), t.first_image)
    ours = M.logits(w, M.decode(M.text_weights(w), x, t.positions, t.bias.float()))
    head = t.first_image + GRID[0] * GRID[1] + 1
    starts = {0: head, 1: head}
    for row, _, stop, _ in t.spans:
        begin, starts[row] = starts[row], stop + 1
        alone = torch.cat([t.ids[row, :head], t.ids[row, begin : stop + 1]])[None]
        reference = model(
            input_ids=alone,
            attention_mask=torch.ones_like(alone),
            mm_token_type_ids=(alone == ids[tok.IMAGE]).int(),
            pixel_values=patches.chunk(2)[row],
            image_grid_thw=grid,
        ).logits[0, head:]
        torch.testing.assert_close(ours[row, begin : stop + 1], reference, atol=1e-4, rtol=1e-4)


def test_chat_template_writes_the_trained_prompt():
    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)
    content = [{"type": "image"}, {"type": "text", "text": "How?"}]
    text = template.render(
        messages=[{"role": "user", "content": content}], add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
