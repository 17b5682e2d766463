"""The catalog's figures are those of the graphs that the published configurations make."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from make_checkpoint import Recorder, shapes
from recipes import RECIPES

from vlrt_export import graph
from vlrt_export.catalog import CATALOG
from vlrt_export.plan import precision_plan
from vlrt_export.writer import DataFile

CARDS = {card.name: card for card in CATALOG}


@pytest.mark.parametrize("name", RECIPES)
def test_parameters_are_those_of_the_published_configuration(name: str):
    total = sum(math.prod(shape) for shape in shapes(RECIPES[name]).values())
    assert CARDS[name].parameters == total
    bytes_each = CARDS[name].download_bytes / total
    assert bytes_each in (2, 4)  # float16 or bfloat16; Kosmos-2 is float32


@pytest.mark.parametrize("name", RECIPES)
def test_package_size_is_what_int4_makes_of_it(name: str, tmp_path: Path):
    recipe, card = RECIPES[name], CARDS[name]
    config, plan = recipe.family.config(recipe.config), precision_plan(recipe.family.graphs)
    size = 0
    for part, make in recipe.family.graphs.items():
        module = make(Recorder(None, {}, plan[part], asked={}), config)  # type: ignore[arg-type]
        graph.build(module, part)
        file = DataFile(tmp_path / part)
        for fill in graph.fills(module):
            file.plan(fill)
        size += file.size
    rows = recipe.embedding_rows or config.decoder.vocab_size
    itemsize = card.download_bytes // card.parameters
    assert card.package_bytes == size + rows * config.decoder.hidden_size * itemsize


def test_cards_are_complete_and_names_unique():
    assert len(CARDS) == len(CATALOG)
    assert len({card.repo for card in CATALOG}) == len(CATALOG)
    assert set(RECIPES) <= set(CARDS)
    for card in CATALOG:
        assert card.name == card.name.lower()
        assert card.licence
        assert card.package_bytes < card.download_bytes
