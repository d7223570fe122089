"""Mined negatives: from the window, never a positive, never too near it; drawn alike whatever the blocks."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisc.data.ragged import Ragged
from unisc.errors import InputError
from unisc.retrieval import hard_negatives
from unisc.retrieval.hard_negatives import MiningConfig, mine, rounds

CONFIG = MiningConfig(num_rounds=1, first_rank=3, last_rank=20, num_hard=4, num_random=2, margin=0.9)


def draw(seed, num_queries=12, num_items=40):
    rng = np.random.default_rng(seed)
    queries, items = (rng.normal(size=(n, 4)).astype(np.float32) for n in (num_queries, num_items))
    known = Ragged.of([rng.choice(num_items, 5, replace=False) for _ in range(num_queries)])
    return queries, items, rng.integers(0, num_items, num_queries), known


@given(seed=st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_every_negative_is_allowed_and_every_allowed_one_may_come(seed):
    queries, items, positives, known = draw(seed)
    found = mine(queries, items, positives, CONFIG, seed=seed, known=known)
    scores = queries @ items.T
    for i, (rows, mask) in enumerate(zip(found.rows, found.mask, strict=True)):
        own, taboo = scores[i, positives[i]], {positives[i], *known.row(i)}
        window = np.argsort(-scores[i], kind="stable")[3:20]
        allowed = {r for r in window if r not in taboo and scores[i, r] <= own - 0.1 * abs(own) + 1e-6}
        hard, random = rows[:4][mask[:4]], rows[4:][mask[4:]]
        assert set(hard) <= allowed and len(hard) == len(set(hard)) == min(4, len(allowed))
        assert not set(random) & (taboo | set(hard)) and len(random) == len(set(random))
        assert mask[:4].tolist() == sorted(mask[:4], reverse=True), "empty slots come last"


@given(seed=st.integers(0, 2**16), block=st.integers(1, 13))
@settings(max_examples=10, deadline=None)
def test_the_seed_decides_and_blocks_do_not(seed, block):
    queries, items, positives, known = draw(seed)
    whole = mine(queries, items, positives, CONFIG, seed=seed, known=known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hard_negatives, "QUERIES_AT_ONCE", block)
        again = mine(queries, items, positives, CONFIG, seed=seed, known=known)
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a, b)
    other = mine(queries, items, positives, CONFIG, seed=seed + 1, known=known)
    assert not np.array_equal(whole.rows, other.rows)


def test_a_teacher_takes_out_what_it_likes_as_much_as_the_positive():
    queries, items, positives, _ = draw(0)
    config = dataclasses.replace(CONFIG, num_random=0, num_hard=17, margin=1.0)
    loved = set(range(0, 40, 2))

    def teacher(at, rows):
        assert at.shape == (12,) and rows.shape[0] == 12
        return np.where(np.isin(rows, list(loved)) | (rows == positives[at][:, None]), 1.0, 0.2)

    without, filtered = (mine(queries, items, positives, config, seed=0, teacher=t) for t in (None, teacher))
    assert set(without.rows[without.mask]) & loved and not set(filtered.rows[filtered.mask]) & loved
    assert set(filtered.rows[filtered.mask]) == set(without.rows[without.mask]) - loved


def test_rounds_mine_by_the_model_before_and_fit_on_what_they_found():
    _, items, positives, _ = draw(1)
    seen = []

    def fit(number, mined):
        seen.append((number, mined))
        return number

    def encode(model):
        return np.random.default_rng(model).normal(size=(12, 4)).astype(np.float32), items

    config = dataclasses.replace(CONFIG, num_rounds=2)
    assert list(rounds(fit, encode, positives, config, seed=0)) == [0, 1, 2]
    assert [number for number, _ in seen] == [0, 1, 2] and seen[0][1] is None
    assert not np.array_equal(seen[1][1].rows, seen[2][1].rows)


def test_a_window_that_ends_at_the_catalogue_and_one_that_begins_behind_it():
    queries, items, positives, _ = draw(0)
    found = mine(queries, items, positives, dataclasses.replace(CONFIG, last_rank=500, num_hard=50), seed=0)
    assert found.mask[:, 37:50].sum() == 0, "37 ranks from the third on"
    with pytest.raises(InputError, match="first_rank 40: the catalogue has 40 items"):
        mine(queries, items, positives, dataclasses.replace(CONFIG, first_rank=40, last_rank=50), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_rounds": 4}, "num_rounds 4: give 0 to 3"),
        ({"first_rank": 20}, "ranks 20 to 20"),
        ({"margin": 0.0}, "margin 0.0: give a number above 0"),
        ({"num_hard": 0}, "num_hard 0"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **changes)
