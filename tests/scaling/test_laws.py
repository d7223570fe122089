"""Every law: derivatives against differences, parameters there and back, and a planted table recovered."""

import dataclasses

import numpy as np
import pytest

from unisc.scaling import LAWS, Contract, fit
from unisc.scaling.solve import Problem

NUM_RUNS = 60
BOUNDED = {"lower": 0.0, "upper": 4.0}
PLANTED = {
    "power": {"A": 3.0, "alpha": 0.1},
    "power_floor": {"E": 0.3, "A": 20.0, "alpha": 0.3},
    "power_limit": {"E": -0.5, "A": 20.0, "alpha": 0.3},
    "chinchilla": {"E": 0.3, "A": 20.0, "B": 40.0, "alpha": 0.30, "beta": 0.25},
    "tied": {"E": 0.3, "A": 20.0, "B": 40.0, "gamma": 0.3},
    "kaplan": {"N_c": 1e9, "D_c": 1e10, "alpha_N": 0.08, "alpha_D": 0.1},
    "data_constrained": {"E": 0.3, "A": 20.0, "B": 90.0, "alpha": 0.30, "beta": 0.30, "R_D": 12.0, "R_N": 4.0},
    "three_axes": {"E": 0.3, "A": 20.0, "B": 15.0, "C": 40.0, "alpha": 0.3, "beta": 0.35, "gamma": 0.25},
    "composition": {"E": 0.3, "A": 20.0, "B": 40.0, "alpha": 0.3, "beta": 0.25, "w_foreign": 0.31, "w_noise": -0.05},
    "composition_by_size": {
        "E": 0.3, "A": 20.0, "B": 40.0, "alpha": 0.3, "beta": 0.25, "w_foreign": 0.5, "w_noise": 0.3, "k_foreign": 0.05,
        "k_noise": -0.04,
    },
    "bnsl": {"a": 0.2, "b": 6.0, "c0": 0.1, "c1": 0.5, "d1": 1e6, "f1": 0.3},
    "bnsl2": {"a": 0.2, "b": 6.0, "c0": 0.1, "c1": 0.6, "d1": 1e5, "f1": 0.2, "c2": -0.4, "d2": 1e7, "f2": 0.2},
    "log_linear": {"c0": 4.0, "c1": -0.1},
    "log_quadratic": {"c0": 10.0, "c1": -1.2, "q1": 0.04},
    "logit_linear": {"c0": 2.0, "c1": -0.2},
    "task_from_loss": {"c0": -4.0, "c1": 1.5},
}  # fmt: skip


def table(name):
    """Make a planted law and its axes: sizes over four decades, each run with its own."""
    rng = np.random.default_rng(0)
    labels = ("N", "exposed", "foreign", "noise") if name.startswith("composition") else LAWS[name].axes
    axes = 10 ** rng.uniform(4, 8, (len(labels), NUM_RUNS))
    if name == "data_constrained":
        axes[2] = axes[1] / 10 ** rng.uniform(0, 2, NUM_RUNS)
    if name == "task_from_loss":
        axes = rng.uniform(2, 4, axes.shape)
    if name.startswith("composition"):
        axes[2:] = axes[1] * 10 ** rng.uniform(-1, 1, axes[2:].shape)
        axes[2:, ::3] = 0.0  # runs of the first origin alone
    law = LAWS[name].of(axes, np.ones(NUM_RUNS), labels, BOUNDED["upper"])
    assert law.names == tuple(PLANTED[name])
    theta = law.internal(np.array([list(PLANTED[name].values())]))
    return law, labels, axes, theta


@pytest.mark.parametrize("name", LAWS)
def test_a_planted_law_is_recovered(name):
    law, labels, axes, theta = table(name)
    bounds = BOUNDED if name in ("logit_linear", "task_from_loss") else {}
    contract = Contract(space="loss" if law.signed else "log", loss="squared", **bounds)
    found = fit(name, *axes, law.predict(theta, axes)[0], contract=contract, labels=labels)
    assert found.params == pytest.approx(PLANTED[name], rel=0.02)
    assert found.objective < 1e-8


@pytest.mark.parametrize("name", LAWS)
def test_parameters_go_there_and_back(name):
    law, _, _, theta = table(name)
    assert law.natural(theta)[0] == pytest.approx(list(PLANTED[name].values()))
    assert law.internal(law.natural(theta)) == pytest.approx(theta)
    lower, upper = law.bounds(np.linspace(1.0, 2.0, NUM_RUNS))
    assert (lower < upper).all() and ((lower <= theta) & (theta <= upper)).all()


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize(
    "contract",
    [
        Contract(huber_delta=0.02),
        Contract(space="loss", loss="squared"),
        Contract(space="logit", loss="squared", lower=0.0, upper=30.0),
    ],
    ids=lambda c: c.space,
)
def test_derivatives_match_differences(name, contract):
    law, _, axes, theta = table(name)
    if law.signed and contract.space != "loss":
        contract = dataclasses.replace(contract, space="loss")
    loss = np.abs(law.predict(theta, axes)[0]) * np.exp(0.01 * np.sin(np.arange(NUM_RUNS)))
    problem = Problem(law, axes, loss, contract, np.ones(NUM_RUNS))
    theta = theta * 1.001
    weight = np.linspace(0.5, 2.0, NUM_RUNS)[None]
    _, gradient, hessian, _ = problem.derivatives(theta, weight, None)
    scale = np.abs(hessian).max()
    for index in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[0, index] = 1e-6
        up, down = (problem.derivatives(theta + sign * step, weight, None) for sign in (1, -1))
        slope = (up[0][0] - down[0][0]) / 2e-6
        assert gradient[0, index] == pytest.approx(slope, rel=1e-4, abs=1e-6 * max(abs(up[0][0]), scale))
        np.testing.assert_allclose(hessian[0, index], (up[1][0] - down[1][0]) / 2e-6, rtol=1e-3, atol=1e-4 * scale)


def test_an_interior_optimum_is_named():
    law, _, axes, theta = table("log_quadratic")
    found = fit("log_quadratic", *axes, law.predict(theta, axes)[0], contract=Contract(space="loss", loss="squared"))
    assert found.to_json()["derived"]["best_N"] == pytest.approx(np.exp(1.2 / 0.08), rel=1e-3)


def test_examples_of_no_worth_leave_no_effective_data():
    law, _, axes, theta = table("composition")
    theta[0, -1] = -2.0
    axes[1] = 1.0
    assert np.isinf(law.predict(theta, axes)).any()
