"""Laws are ranked by what they predict beyond the runs they saw."""

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.scaling import Contract, tournament

SQUARED = Contract(loss="squared")


def grid(seed=0, noise=2e-3):
    size, data = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e4, 1e7, 7), np.geomspace(1e5, 1e8, 7)))
    loss = 0.5 + 30 / size**0.4 + 60 / data**0.3
    return size, data, loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(size)))


def test_the_law_that_made_the_table_is_among_the_winners():
    size, data, loss = grid()
    found = tournament({"N": size, "D": data}, loss, contract=SQUARED)
    assert "chinchilla" in found.winners
    assert {"log_linear", "mean", "carry_forward"}.isdisjoint(found.winners)
    assert found.entries[0].error == min(entry.error for entry in found.entries)
    truth = 0.5 + 30 / 3e7**0.4 + 60 / 3e8**0.3
    assert found.predict(N=3e7, D=3e8)[0] == pytest.approx(truth, rel=0.02)
    assert sum(entry.weight for entry in found.entries) == pytest.approx(1.0)


def test_laws_that_agree_are_tied():
    size = np.geomspace(1e3, 1e8, 24)
    loss = 5 * size**-0.1 * np.exp(0.01 * np.random.default_rng(1).standard_normal(24))
    found = tournament({"N": size}, loss, contract=SQUARED)
    assert {"power", "power_floor"} <= set(found.winners)  # a floor of nothing is the power alone
    best = next(entry for entry in found.entries if entry.name == "mean")
    assert not best.tied and best.behind > 0


def test_only_runs_below_the_cut_are_seen():
    size, data, loss = grid()
    bent = loss.copy()
    top = size * data >= 0.99 * np.max(size * data)
    bent[top] *= 3.0  # the last budget tells a lie, which only its own prediction may show
    plain, lied = (tournament({"N": size, "D": data}, of, contract=SQUARED) for of in (loss, bent))
    assert lied.entries[0].error > plain.entries[0].error


def test_laws_that_cannot_be_fitted_are_left_out_with_the_reason():
    size = np.geomspace(1e3, 1e7, 8)
    found = tournament({"N": size}, 0.5 + 30 / size**0.4, contract=SQUARED)
    assert "bnsl2" in found.left_out and "runs cannot fit" in found.left_out["bnsl2"]


def test_too_few_budgets_are_refused():
    with pytest.raises(InputError, match="leave nothing to predict"):
        tournament({"N": [1e3, 1e4]}, [3.0, 2.0], contract=SQUARED)
    with pytest.raises(InputError, match="no law takes the axes"):
        tournament({"X": [1e3, 1e4]}, [3.0, 2.0], contract=SQUARED)
