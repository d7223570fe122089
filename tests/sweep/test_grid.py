from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisc.errors import InputError
from unisc.sweep.grid import axis, chain, configs, dedupe, product, zipped


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    embed_dim: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    model: Model
    seed: int
    learning_rate: float


BASE = Config(model=Model(embed_dim=8), seed=0, learning_rate=0.1)


def test_product_takes_every_combination_the_last_list_fastest():
    points = product(axis("model.embed_dim", 16, 32), axis("seed", 1, 2))
    assert [(c.model.embed_dim, c.seed) for c in configs(BASE, points)] == [(16, 1), (16, 2), (32, 1), (32, 2)]


def test_zipped_pairs_points_and_refuses_unequal_lists():
    points = zipped(axis("seed", 1, 2), axis("learning_rate", 0.1, 0.2))
    assert [(c.seed, c.learning_rate) for c in configs(BASE, points)] == [(1, 0.1), (2, 0.2)]
    with pytest.raises(InputError, match="2, 3 points"):
        zipped(axis("seed", 1, 2), axis("learning_rate", 1.0, 2.0, 3.0))


def test_chain_keeps_order_and_dedupe_keeps_the_first():
    points = chain(axis("seed", 1, 0), axis("learning_rate", 0.1, 1), axis("seed", 1))
    assert [(c.seed, c.learning_rate) for c in dedupe(configs(BASE, points))] == [(1, 0.1), (0, 0.1), (0, 1.0)]


def test_a_field_set_twice_or_unknown_is_named():
    with pytest.raises(InputError, match=r"^seed: set by two lists"):
        product(axis("seed", 1), axis("seed", 2))
    with pytest.raises(InputError, match=r"model\.embed_dims: no such field; did you mean 'embed_dim'"):
        configs(BASE, axis("model.embed_dims", 4))


@given(st.lists(st.integers(0, 5), max_size=6), st.lists(st.floats(0, 5), max_size=6))
def test_a_product_has_the_product_of_the_lengths_and_dedupe_the_number_of_distinct(seeds, rates):
    made = configs(BASE, product(axis("seed", *seeds), axis("learning_rate", *rates)))
    assert len(made) == len(seeds) * len(rates)
    assert len(dedupe(made)) == len(set(seeds)) * len(set(rates))
    assert dedupe(dedupe(made)) == dedupe(made)
