"""The interaction of size and composition is a number with an interval, and says when it is not resolved."""

import itertools

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.scaling import Cells, additive_test, contrast, slope_difference, synergy

SIZES, NAMES, SEEDS = np.geomspace(3e3, 3e5, 6), ("exposed", "searchified"), (0, 1, 2)


def table(interaction, noise=0.0005, shift=0.004, seeds=SEEDS, seed=0):
    rng = np.random.default_rng(seed)
    common = 0.01 * rng.standard_normal(len(seeds))  # A seed's own effect, the same in every cell
    rows = []
    for size, name, (index, label) in itertools.product(SIZES, NAMES, enumerate(seeds)):
        decade = np.log10(size / SIZES[0])
        extra = (shift + interaction * decade) if name == "searchified" else 0.0
        rows.append((size, name, label, 0.7 + 0.01 * decade + extra + common[index] + noise * rng.standard_normal()))
    return [np.array(column) for column in zip(*rows, strict=True)]


def test_a_planted_interaction_is_resolved_with_its_sign():
    for planted, verdict in ((0.003, "resolved positive"), (-0.003, "resolved negative")):
        found = slope_difference(Cells.of(*table(planted), scale=100), "searchified")
        assert found.verdict == verdict
        assert found.low <= 100 * planted <= found.high
        assert additive_test(Cells.of(*table(planted))).verdict == "additive model rejected"


def test_intervals_cover_and_no_interaction_is_seldom_resolved():
    covered = wrong = 0
    for seed in range(200):
        found = slope_difference(Cells.of(*table(0.001, seed=seed)), "searchified")
        covered += found.low <= 0.001 <= found.high
        wrong += additive_test(Cells.of(*table(0.0, seed=seed))).p_value < 0.05
    assert 168 <= covered <= 192
    assert 2 <= wrong <= 22


def test_synergy_is_both_minus_model_minus_data():
    cells = Cells.of(*table(0.002, noise=0.0), scale=100)
    found = synergy(cells, "searchified")
    assert found.model.value == pytest.approx(2.0)
    assert found.data.value == pytest.approx(0.4)
    assert found.both.value == pytest.approx(2.8)
    assert found.synergy.value == pytest.approx(found.both.value - found.model.value - found.data.value)
    assert found.joint_over_model.value == pytest.approx(0.8)
    assert found.to_json()["large"] == SIZES[-1]


def test_a_seeds_common_effect_cancels():
    found = synergy(Cells.of(*table(0.002)), "searchified").model
    assert found.standard_error < 0.001  # The common effect alone is ten times that.


def test_one_seed_gives_a_value_without_an_interval():
    cells = Cells.of(*table(0.003, seeds=(0,)))
    found = slope_difference(cells, "searchified")
    assert (found.low, found.high, found.standard_error) == (None, None, None)
    assert found.verdict == "unresolved (no interval: one seed)"
    assert additive_test(cells).verdict == "not tested (one seed)"


def test_cluster_bootstrap_and_requests_are_offered():
    cells = Cells.of(*table(0.003, seeds=tuple(range(12))))
    blocks, clusters = (slope_difference(cells, "searchified", method=method) for method in ("blocks", "bootstrap"))
    assert clusters.standard_error == pytest.approx(blocks.standard_error, rel=0.6)
    requests = np.random.default_rng(0).standard_normal((*cells.values.shape, 50)) * 0.05
    weights = np.zeros(cells.means.shape)
    weights[0], weights[-1] = (-1, 1), (1, -1)
    plain, wider = contrast(cells, "x", weights), contrast(cells, "x", weights, requests=requests)
    assert wider.high - wider.low > plain.high - plain.low
    assert "test requests" in wider.method


def test_the_additive_model_predicts_the_largest_size_better_when_it_is_true():
    true, false = additive_test(Cells.of(*table(0.0))), additive_test(Cells.of(*table(0.004)))
    assert true.rmse_additive < 0.1 * false.rmse_additive
    assert false.rmse_interaction < 0.5 * false.rmse_additive


def test_incomplete_and_broken_tables_are_refused():
    size, name, seed, value = table(0.0)
    with pytest.raises(InputError, match="has no run of composition 'searchified'"):
        keep = ~((size == size.max()) & (name == "searchified"))
        Cells.of(size[keep], name[keep], seed[keep], value[keep])
    with pytest.raises(InputError, match="occurs twice"):
        Cells.of(*(np.concatenate([column, column[:1]]) for column in (size, name, seed, value)))
    with pytest.raises(InputError, match="the metric is nan in row 0"):
        Cells.of(size, name, seed, np.where(np.arange(len(size)) == 0, np.nan, value))
    with pytest.raises(InputError, match="at least two model sizes"):
        keep = size == size.max()
        slope_difference(Cells.of(size[keep], name[keep], seed[keep], value[keep]), "searchified")
    with pytest.raises(InputError, match="'attributed' is not in the table"):
        synergy(Cells.of(size, name, seed, value), "attributed")
