"""Predictions widened by how far earlier ones missed: wide where the law is wrong, hardly wider where it is right."""

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.scaling import Contract, bootstrap, extrapolation, fit

SIZES = np.geomspace(1e4, 1e8, 12).repeat(3)
SQUARED = Contract(loss="squared")


def right(size):
    return 0.5 + 20.0 * size**-0.3


def bent(size):
    """A power that flattens out at a break the floor cannot describe."""
    return 6.0 * size**-0.15 * (1 + (size / 3e6) ** 2) ** 0.04


def table(law, seed=0):
    return law(SIZES) * np.exp(0.003 * np.random.default_rng(seed).standard_normal(len(SIZES)))


def test_a_true_law_is_hardly_widened_and_a_wrong_one_is():
    ratios = {}
    for law in (right, bent):
        boot = bootstrap(fit("power_floor", SIZES, table(law), contract=SQUARED), draws=50)
        plain = boot.prediction(1e9)
        widened = boot.prediction(1e9, backtest=extrapolation(boot.fit, rungs=4))
        assert widened.low <= plain.low and plain.high <= widened.high and widened.value == plain.value
        ratios[law.__name__] = (widened.high - widened.low) / (plain.high - plain.low)
        assert widened.holds(law(1e9))
        assert "widened by the errors of" in widened.note and widened.method == "profile and backtest"
    assert ratios["bent"] > 2 * ratios["right"]


def test_a_wrong_law_misses_without_and_holds_with_the_backtest():
    held = {"plain": 0, "widened": 0}
    for seed in range(6):
        boot = bootstrap(fit("power_floor", SIZES, table(bent, seed), contract=SQUARED, num_starts=4), draws=2)
        held["plain"] += boot.prediction(1e9).holds(bent(1e9))
        held["widened"] += boot.prediction(1e9, backtest=extrapolation(boot.fit, rungs=3)).holds(bent(1e9))
    assert held["plain"] <= 1 and held["widened"] >= 5, held


def test_widening_grows_with_distance_and_ends_inside_the_table():
    found = fit("power_floor", SIZES, table(bent), contract=SQUARED)
    boot, backtest = bootstrap(found, draws=50), extrapolation(found)
    assert backtest.rate > 0
    for size in (1e6, 1e8):
        assert boot.prediction(size, backtest=backtest).low == pytest.approx(boot.prediction(size).low)
    added = [np.log(boot.prediction(s).low / boot.prediction(s, backtest=backtest).low) for s in (1e9, 1e10)]
    assert added == pytest.approx([backtest.rate * np.log(10), backtest.rate * np.log(100)])
    assert "times as far as any of them" in boot.prediction(1e12, backtest=backtest).note


def test_too_few_runs_are_said():
    found = fit("power_floor", SIZES[:12:3], table(right)[:12:3], contract=SQUARED)
    with pytest.raises(InputError, match="no rung can be left out: 4 runs for 3 parameters"):
        extrapolation(found)
    few = extrapolation(fit("power_floor", SIZES[::3], table(right)[::3], contract=SQUARED), rungs=1)
    boot = bootstrap(few_fit := fit("power_floor", SIZES[::3], table(right)[::3], contract=SQUARED), draws=20)
    assert "too few for 90%: by the largest" in boot.prediction(1e9, backtest=few).note
    assert few_fit.num_runs == 12
