"""Sampling: the filters against transformers' own, what is drawn against its probability."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.pictures import picture
from vlrt_runtime.errors import InputError
from vlrt_runtime.model import Model
from vlrt_runtime.sampling import Sampler, Sampling, candidates

PICTURE = picture(90, 60)
ASK = "What is this?"
SETTINGS = [
    Sampling(1.0),
    Sampling(0.3),
    Sampling(2.5),
    *(Sampling(0.8, top_k=k) for k in (1, 2, 40, 1000, 5000)),
    *(Sampling(1.3, top_p=p) for p in (1e-9, 0.1, 0.5, 0.9, 0.999)),
    *(Sampling(0.9, min_p=p) for p in (1e-9, 0.02, 0.3, 1.0)),
    Sampling(0.7, top_k=50, top_p=0.8, min_p=0.05),
    Sampling(1.5, top_k=200, top_p=0.95, min_p=0.001),
]


def reference(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Probabilities [vocab] by the warpers, in the order in which transformers has them."""
    torch = pytest.importorskip("torch")
    logits_process = pytest.importorskip("transformers.generation.logits_process")
    warpers = [logits_process.TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_k:
        warpers.append(logits_process.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(logits_process.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(logits_process.MinPLogitsWarper(sampling.min_p))
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    for warper in warpers:
        scores = warper(None, scores)
    return scores.softmax(-1)[0].numpy()


@pytest.mark.parametrize("sampling", SETTINGS)
@pytest.mark.parametrize(("spread", "vocab"), [(0.1, 1000), (3.0, 1000), (12.0, 50_000)])
def test_the_filters_are_those_of_transformers(sampling: Sampling, spread: float, vocab: int):
    random = np.random.default_rng(vocab)
    for _ in range(3):
        logits = random.normal(0, spread, vocab).astype(np.float32)
        ids, probabilities = candidates(logits, sampling)
        ours = np.zeros(vocab)
        ours[ids] = probabilities
        expected = reference(logits, sampling)
        # Equal sets; the last digits are those of adding up in another order.
        np.testing.assert_array_equal(ours > 0, expected > 0)
        np.testing.assert_allclose(ours, expected, rtol=1e-9)


def test_equal_logits_at_the_edge_of_top_k_are_all_kept():
    logits = np.array([1, 3, 2, 3, 2, 2, 0], np.float32)
    assert candidates(logits, Sampling(1.0, top_k=3))[0].tolist() == [1, 2, 3, 4, 5]


def test_what_is_out_already_is_never_drawn():
    logits = np.full(9, -np.inf, np.float32)
    logits[[2, 5]] = 0.0
    ids, probabilities = candidates(logits, Sampling(5.0, top_k=7, top_p=0.99, min_p=0.1))
    assert (ids.tolist(), probabilities.tolist()) == ([2, 5], [0.5, 0.5])


def test_what_is_drawn_is_as_frequent_as_it_is_likely():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    draw = Sampler(Sampling(1.0, seed=7))
    counts = np.bincount([draw(logits) for _ in range(20_000)], minlength=4)
    # Three standard deviations of a count are at most 0.011 of 20 000.
    np.testing.assert_allclose(counts / 20_000, [0.5, 0.3, 0.15, 0.05], atol=0.011)


def test_a_seed_repeats_and_another_does_not():
    logits = np.random.default_rng(0).normal(0, 1, 500).astype(np.float32)

    def drawn(seed: int | None) -> list[int]:
        draw = Sampler(Sampling(1.0, seed=seed))
        return [draw(logits) for _ in range(30)]

    assert drawn(3) == drawn(3) != drawn(4)
    assert drawn(None) != drawn(None)
    assert drawn(3)[:5] == [47, 116, 403, 276, 48]  # on every machine and with every numpy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in (-0.1, float("nan"), float("inf"), "hot", True)),
        *(("top_k", value) for value in (-1, 1.5, None)),
        *(("top_p", value) for value in (0, 1.01, float("nan"))),
        *(("min_p", value) for value in (-0.1, 1.1)),
        *(("seed", value) for value in (-1, 0.5, "x")),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: object):
    with pytest.raises(InputError, match=rf"^{name} {value!r}: expected "):
        Sampling(**{name: value})  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------ with a model


@pytest.fixture(scope="module")
def model(small_package: Path) -> Model:
    return Model(small_package, threads=1)


def ask(model: Model, sampling: Sampling | None, **options: object) -> list[int]:
    answer = model.generate(ASK, images=[PICTURE], max_new_tokens=16, sampling=sampling, **options)  # pyright: ignore[reportArgumentType]
    return answer.token_ids


def test_no_sampling_is_temperature_0_is_the_likeliest_of_one(model: Model):
    greedy = ask(model, None)
    assert ask(model, Sampling()) == greedy
    assert ask(model, Sampling(0, top_k=3, top_p=0.5, seed=1)) == greedy
    assert ask(model, Sampling(1.0, top_k=1)) == greedy
    assert ask(model, Sampling(1e-4, seed=1)) == greedy


def test_answers_repeat_by_their_seed(model: Model):
    first = ask(model, Sampling(1.5, seed=5))
    assert len(first) > 4
    assert ask(model, Sampling(1.5, seed=5)) == first
    assert ask(model, Sampling(1.5, seed=6)) != first


def test_speculation_guesses_greedy_answers_only(model: Model):
    with pytest.raises(InputError, match="speculate: it guesses greedy answers"):
        model.stream(ASK, speculate=True, sampling=Sampling(0.5))
    assert ask(model, Sampling(0), speculate=True) == ask(model, None)
