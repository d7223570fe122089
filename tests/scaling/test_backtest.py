"""Laws are judged on runs they did not see, beside baselines that cost nothing."""

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.scaling import Contract, leave_largest_out
from unisc.scaling.backtest import held_out

SIZES, DATA = np.geomspace(2e3, 3e5, 6), np.geomspace(2e4, 6e5, 5)


def table(noise=5e-4, seed=0):
    size, data = (axis.ravel().repeat(2) for axis in np.meshgrid(SIZES, DATA))
    loss = 0.3 + 0.6 / size**0.3 + 2.0 / data**0.35
    return size, data, loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(size)))


def test_a_true_law_beats_every_baseline_on_the_largest_runs():
    test = leave_largest_out("chinchilla", *table(), contract=Contract(loss="squared"))
    assert test.beats_baselines
    assert test.held.sum() == 20 and test.fit.num_runs == 40
    law, carry, linear, mean = (test.scores[name] for name in ("chinchilla", "carry_forward", "log_linear", "mean"))
    assert law.mean_absolute < 0.2 * min(carry.mean_absolute, linear.mean_absolute)
    # A falling, flattening loss: repeating the last one predicts too much, a straight line too little.
    assert carry.bias > 0 and mean.bias > 0 and linear.bias < 0


def test_prediction_intervals_cover_new_runs():
    covered = [
        leave_largest_out("chinchilla", *table(1e-3, seed), contract=Contract(loss="squared"), draws=200).coverage
        for seed in range(10)
    ]
    assert 0.78 < np.mean(covered) <= 0.98


def test_a_flat_table_is_won_by_no_law():
    size, data, _ = table()
    loss = 0.5 + 1e-3 * np.random.default_rng(2).standard_normal(len(size))
    test = leave_largest_out("chinchilla", size, data, loss, draws=0)
    assert test.coverage is None
    assert test.scores["mean"].mean_absolute < 1.3 * test.scores["chinchilla"].mean_absolute


@pytest.mark.parametrize(("holdout", "count"), [("size", 10), ("data", 12), ("either", 20), ("both", 2), ("compute", 2)])
def test_holdouts_name_the_largest_runs(holdout, count):
    size, data, _ = table()
    mask = held_out(np.array([size, data]), holdout)
    assert mask.sum() == count
    assert mask[(size == size.max()) & (data == data.max())].all()


def test_bad_holdouts_are_refused():
    with pytest.raises(InputError, match="holdout 'first' is unknown"):
        leave_largest_out("chinchilla", *table(), holdout="first")
    with pytest.raises(InputError, match="leaves nothing to test"):
        leave_largest_out("chinchilla", *table(), held=np.zeros(60, bool))
    with pytest.raises(InputError, match="one axis"):
        leave_largest_out("power_floor", SIZES, 1 + 1 / SIZES, holdout="data")
