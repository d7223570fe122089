"""Batches: many tables, weights and chunks give what each gives alone."""

from dataclasses import replace

import numpy as np
import pytest

from unisc.scaling import Contract, fit
from unisc.scaling.solve import solve

SIZES = np.geomspace(1e3, 1e7, 20)


def table(seed):
    return (0.3 + 20.0 * SIZES**-0.4) * np.exp(0.01 * np.random.default_rng(seed).standard_normal(20))


@pytest.mark.parametrize("loss", ["squared", "huber", "absolute"])
def test_tables_solved_together_are_solved_as_alone(loss):
    contract = Contract(loss=loss, huber_delta=0.01)
    fits = [fit("power_floor", SIZES, table(seed), contract=contract) for seed in range(4)]
    first = fits[0]
    together = replace(first.problem, loss=np.stack([f.problem.loss for f in fits]))
    found = solve(together, np.tile(first.theta, (4, 1)), first.lower, first.upper, first.weight)
    for row, alone in zip(found.objective, fits, strict=True):
        assert row == pytest.approx(alone.objective, rel=1e-5)


def test_chunks_and_threads_change_nothing(monkeypatch):
    found = fit("power_floor", SIZES, table(0), contract=Contract(loss="squared"))
    weight = np.random.default_rng(0).multinomial(20, np.full(20, 0.05), size=64).astype(float)
    starts = np.tile(found.theta, (64, 1))
    whole = solve(found.problem, starts, found.lower, found.upper, weight)
    monkeypatch.setattr("unisc.scaling.solve._BATCH_CELLS", 500)
    np.testing.assert_allclose(solve(found.problem, starts, found.lower, found.upper, weight).theta, whole.theta, atol=1e-7)
