"""Tests against additivity: their size where nothing interacts, their power where something does, and rates recovered."""

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.scaling import Contract, bootstrap, fit
from unisc.scaling.nested import cell_means, f_test, nested_test, product_test

SIZES, SHARES = np.geomspace(1e4, 5e5, 5), np.geomspace(1 / 32, 1, 5)
LABELS = ("N", "shown", "hidden", "foreign")
MIXES = np.array([[1.0, 0, 0], [1, 2, 0], [1, 2, 2]])
SQUARED = Contract(loss="squared")


def table(rng, *, rates=(0.2, 0.5), slope=0.0, noise=2e-3):
    """Return size and kinds (4, n) of 5 sizes x 5 shares x 3 mixes, and losses (n,) at planted rates of exchange."""
    size, share, mix = (axis.ravel() for axis in np.meshgrid(SIZES, SHARES, np.arange(3), indexing="ij"))
    kinds = (1e5 * share * MIXES[mix].T).astype(float)
    foreign = rates[1] + slope * np.log(size / 7e4)
    effective = kinds[0] + rates[0] * kinds[1] + foreign * kinds[2]
    loss = 0.3 + 0.9 / size**0.4 + 2.4 / effective**0.36
    return [size, *kinds], loss * np.exp(noise * rng.standard_normal(len(size)))


def both(axes, loss):
    small = fit("composition", *axes, loss, contract=SQUARED, labels=LABELS, num_starts=6)
    start = [*small.params.values(), 0.0, 0.0]
    return small, fit("composition_by_size", *axes, loss, contract=SQUARED, labels=LABELS, num_starts=4, starts=start)


def test_planted_rates_and_a_planted_interaction_are_recovered():
    axes, loss = table(np.random.default_rng(0), slope=0.15, noise=1e-3)
    small, large = both(axes, loss)
    found = nested_test(small, large)
    assert found.verdict == "additive model rejected" and found.degrees == (2, 75 - 9)
    boot = bootstrap(large, draws=100)
    for name, truth in {"w_hidden": 0.2, "k_foreign": 0.15, "k_hidden": 0.0}.items():
        assert boot.interval(name).holds(truth), name
    assert not boot.interval("k_foreign").holds(0.0)
    axes, loss = table(np.random.default_rng(1), noise=1e-3)
    boot = bootstrap(both(axes, loss)[0], draws=100)
    assert boot.interval("w_hidden").holds(0.2) and boot.interval("w_foreign").holds(0.5)
    assert boot.interval("w_foreign").high < 1


@pytest.mark.parametrize(("slope", "least", "most"), [(0.0, 0, 6), (0.1, 20, 24)], ids=["size", "power"])
def test_the_test_against_additivity_rejects_as_often_as_it_says_and_sees_an_interaction(slope, least, most):
    rng = np.random.default_rng(2)
    rejected = sum(nested_test(*both(*table(rng, slope=slope))).p_value < 0.1 for _ in range(24))
    assert least <= rejected <= most, rejected  # of 24, and 2.4 at the null


def test_size_by_volume_has_its_size_and_its_power():
    rng = np.random.default_rng(3)
    size, data = (axis.ravel() for axis in np.meshgrid(SIZES, 1e5 * SHARES, indexing="ij"))
    additive = 0.3 + 0.9 / size**0.4 + 2.4 / data**0.36
    crossed = np.log(size / 7e4) * np.log(data / 2e4)
    tests = [
        [product_test(size, data, additive + by * crossed + 1e-3 * rng.standard_normal(25)) for _ in range(200)]
        for by in (0.0, 1e-3)
    ]
    wrong, right = (sum(test.p_value < 0.05 for test in found) for found in tests)
    assert 2 <= wrong <= 20
    assert right > 180
    assert tests[0][0].degrees == (1, 15) and tests[0][0].num_points == 25


def test_f_test_is_the_textbook_one():
    found = f_test(12.0, 8.0, extra=2, num_points=30, num_free=6)
    assert found.f_statistic == pytest.approx((4 / 2) / (8 / 24))
    assert found.likelihood_ratio == pytest.approx(30 * np.log(1.5))
    assert found.p_value == pytest.approx(0.00770, abs=1e-5)
    assert f_test(8.0, 8.0 + 1e-12, extra=2, num_points=30, num_free=6).p_value == pytest.approx(1.0)


def test_cells_are_averaged_by_label():
    label = np.array(["b", "a", "b"])
    first, second = cell_means([1.0, 2.0, 3.0], [0.0, 4.0, 1.0], by=label)
    assert first.tolist() == [2.0, 2.0] and second.tolist() == [4.0, 0.5]


def test_what_cannot_be_tested_is_refused():
    axes, loss = table(np.random.default_rng(4))
    huber = fit("composition", *axes, loss, labels=LABELS, num_starts=4)
    with pytest.raises(InputError, match="use loss 'squared'"):
        nested_test(huber, huber)
    with pytest.raises(InputError, match="at least two sizes at two data sizes"):
        product_test([1e4] * 4, [1, 2, 3, 4], [0.4, 0.3, 0.2, 0.1])
    with pytest.raises(InputError, match="4 points leave -1 degrees of freedom"):
        f_test(2.0, 1.0, extra=1, num_points=4, num_free=5)
