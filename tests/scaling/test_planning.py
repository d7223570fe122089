"""Plans deliver what they promise on planted tables, keep to their budget, and say where a target is out of reach."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import stdtrit

from unisc.errors import InputError
from unisc.scaling import Contract, bootstrap, fit
from unisc.scaling.candidates import Budget, Candidates, train_flops
from unisc.scaling.information import Information, link_slopes, loss_slopes, robust_widths, target_points, variances
from unisc.scaling.planning import plan
from unisc.scaling.solve import Problem, solve

SQUARED = Contract(loss="squared")
SIZE, DATA = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(3e8, 3e10, 5)))
COST = float((6 * SIZE * DATA).sum())
TARGET = {"N": 1e10, "D": 3e11}
NUM_TABLES = 200


def truth(size, data):
    return 1.7 + 0.6 * (size / 1e8) ** -0.35 + 0.6 * (data / 3e9) ** -0.4


def measured(size, data, rng, noise=0.005):
    return truth(size, data) * np.exp(noise * rng.standard_normal(np.shape(size)))


def table(seed=0, contract=SQUARED, **options):
    loss = measured(SIZE, DATA, np.random.default_rng(seed))
    return fit("chinchilla", SIZE, DATA, loss, contract=contract, **options)


def refitted(found, axes, loss, steps=12):
    """Fit other runs from a fit's own optimum, without its search for others."""
    problem = Problem(found.law, axes, loss, found.contract, np.ones_like(loss))
    ones = np.ones_like(loss)
    theta = solve(problem, found.theta[None], found.lower, found.upper, ones, steps=steps).theta[0]
    return dataclasses.replace(found, problem=problem, weight=ones, theta=theta)


def error_after(found, runs, rng):
    """Make the runs, refit, and return the error at the target."""
    more = np.array(runs).reshape(-1, 2).T
    axes = np.concatenate([found.problem.axes, more], axis=1)
    again = refitted(found, axes, np.append(found.problem.loss, measured(*more, rng)))
    return float(again.predict(*TARGET.values())[0] - truth(*TARGET.values()))


def test_planned_runs_deliver_the_promised_error_and_beat_the_obvious_ways_to_spend():
    # The whole study, more tables and worlds: benchmarks/planning.py.
    squared = {"plan": [], "largest": [], "random": []}
    promised = []
    base = table()
    for seed in range(NUM_TABLES):
        rng = np.random.default_rng([1, seed])
        found = refitted(base, base.problem.axes, measured(SIZE, DATA, rng))
        candidates = Candidates.grid(found, points=9)
        made = plan(found, targets=[TARGET], budget=COST, candidates=candidates, max_runs=6)
        spread = made.chosen.widths[0] / (2 * stdtrit(found.num_runs + made.chosen.num_runs - 5, 0.95))
        promised.append(spread**2)
        for name, option in (("plan", made.chosen), ("largest", made.others["largest"])):
            runs = [list(run.at.values()) for run in option.runs for _ in range(run.repeats)]
            squared[name].append(error_after(found, runs, rng) ** 2)
        runs, left = [], COST
        while len(runs) < 6 and (near := np.flatnonzero(candidates.cost <= left)).size:
            runs.append(candidates.axes[:, drawn := rng.choice(near)])
            left -= candidates.cost[drawn]
        squared["random"].append(error_after(found, runs, rng) ** 2)
    got = {name: np.array(values) for name, values in squared.items()}
    picked = np.random.default_rng(0).integers(NUM_TABLES, size=(2000, NUM_TABLES))
    assert 0.6 < got["plan"].mean() / np.mean(promised) < 1.6  # The mean of as many squared normal errors has a spread of 0.1.
    low, high = np.quantile(got["plan"][picked].mean(axis=1) / np.array(promised)[picked].mean(axis=1), [0.005, 0.995])
    assert low < 1 < high
    for other in ("largest", "random"):
        assert np.quantile(got[other][picked].mean(axis=1) / got["plan"][picked].mean(axis=1), 0.05) > 1


def test_a_plan_keeps_its_budget_and_limits_and_is_better_than_the_ways_it_names():
    found = table()
    for share in (1e-3, 0.1, 1.0):
        made = plan(found, targets=[TARGET], budget=share * COST, max_runs=7, max_repeats=2)
        assert 1 <= made.chosen.num_runs <= 7 and made.chosen.cost <= share * COST
        assert all(run.repeats <= 2 for run in made.chosen.runs)
        assert made.chosen.cost == pytest.approx(sum(run.cost * run.repeats for run in made.chosen.runs))
        assert made.chosen.ratio < 1 and made.chosen.ratio <= made.others["largest"].ratio
        assert made.chosen.ratio == pytest.approx(made.chosen.widths[0] / made.before[0])
        assert all(run.without > 1 for run in made.chosen.runs)
    once = plan(found, targets=[TARGET], budget=COST, max_runs=1)
    assert once.chosen.num_runs == 1 and made.chosen.ratio < once.chosen.ratio <= once.others["largest"].ratio


def test_greedy_with_exchanges_comes_close_to_the_best_of_all_pairs():
    found = table(3)
    candidates = Candidates.grid(found, points=6)
    made = plan(found, targets=[TARGET], budget=COST, candidates=candidates, max_runs=2, max_repeats=2)
    known, aim = Information.of(found), loss_slopes(found, target_points(found, [TARGET]))
    rows = link_slopes(found, candidates.axes)
    best = np.inf
    for i in range(len(rows)):
        for j in range(i, len(rows)):
            if candidates.cost[i] + candidates.cost[j] <= COST:
                best = min(best, float(known.with_runs(rows[[i, j]], np.ones(2)).widths(aim, 0.9)[0]))
    assert made.chosen.widths[0] <= best * 1.01


def test_a_target_that_the_table_does_not_identify_is_said_and_mended():
    # Data always 20 times size and one exponent: only the sum of both terms can be seen.
    size = np.geomspace(1e6, 1e9, 12)
    loss = measured(size, 20 * size, np.random.default_rng(0))
    found = fit("tied", size, 20 * size, loss, contract=SQUARED)
    made = plan(found, targets=[(1e10, 2e10)], budget=6 * (20e9 * 1e9))
    assert np.isinf(made.before[0]) and np.isfinite(made.chosen.widths[0]) and made.chosen.ratio is None
    assert made.notes[0].startswith("N=1e+10, D=2e+10: not identified by this table (infinite variance); the planned runs")
    written = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert written["targets"][0]["before"] is None and written["plan"]["ratio"] is None
    same = Candidates.of(found, {"N": [1e7, 1e8], "D": [2e8, 2e9]})
    still = plan(found, targets=[(1e10, 2e10)], budget=1e22, candidates=same)
    assert np.isinf(still.chosen.widths[0]) and "nor with the planned runs" in still.notes[0]
    on_the_line = plan(found, targets=[(1e10, 2e11)], budget=1e19)
    assert np.isfinite(on_the_line.before[0])


@pytest.mark.parametrize("contract", [SQUARED, Contract(huber_delta=1e-3)])
def test_noise_that_differs_between_runs_is_noticed(contract):
    rng = np.random.default_rng(5)
    size, data = (np.tile(v, 4) for v in (SIZE, DATA))
    spread = np.where(data > 1e10, 0.02, 0.002)  # The runs that a far target rests on are the noisy ones.
    loss = truth(size, data) * np.exp(spread * rng.standard_normal(len(size)))
    found = fit("chinchilla", size, data, loss, contract=contract, num_starts=2)
    at = target_points(found, [TARGET])
    drawn = found.law.predict(bootstrap(found, draws=150).draws, at).std(axis=0)
    width = robust_widths(found, loss_slopes(found, at), 0.9)
    assert width == pytest.approx(2 * stdtrit(found.num_runs - 5, 0.95) * drawn, rel=0.35)
    made = plan(found, targets=[TARGET], budget=COST)
    assert width > 1.3 * made.before and any("scatter more than the rest" in note for note in made.notes)
    weighed = fit("chinchilla", size, data, loss, contract=contract, se=spread * loss, num_starts=2)
    assert "scatter" not in str(plan(weighed, targets=[TARGET], budget=COST).notes)


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        (SQUARED, 1.0),
        (Contract(huber_delta=1e-3), np.pi / 2),
        (Contract(huber_delta=3e-3), 1.3),
        (Contract(loss="absolute"), np.pi / 2),
    ],
)
def test_the_noise_of_a_small_robust_fit_does_not_count_the_runs_it_goes_through(contract, expected):
    # Normal noise costs a median pi / 2 of the variance; 25 runs, 5 of which a robust law of 5 parameters all but meets.
    base = table(contract=contract)
    noises = []
    for seed in range(25):
        loss = measured(SIZE, DATA, np.random.default_rng([2, seed]))
        noises.append(Information.of(refitted(base, base.problem.axes, loss, steps=60)).noise)
    assert 0.7 < np.mean(noises) / 0.005**2 / expected < 1.5


def test_variance_is_that_of_the_inverse_whatever_the_units():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((9, 4)) * np.array([1e-6, 1.0, 1e5, 1e-2])
    matrix, aim = rows.T @ rows, rng.standard_normal((3, 4)) * np.array([1e-6, 1.0, 1e5, 1e-2])
    scale = np.sqrt(np.diagonal(matrix))
    exact = np.einsum("kp,pq,kq->k", aim / scale, np.linalg.inv(matrix / np.outer(scale, scale)), aim / scale)
    assert variances(matrix, aim) == pytest.approx(exact)


def test_budgets_in_hours_and_money_buy_the_same_runs():
    found = table()
    hours = Budget.device_hours(100, flops_per_hour=1e17)
    money = Budget.money(250, price_per_hour=2.5, flops_per_hour=1e17, unit="EUR")
    plans = [plan(found, targets=[TARGET], budget=budget) for budget in (1e19, hours, money)]
    assert hours.flops == money.flops == 1e19
    assert plans[0].chosen.runs == plans[1].chosen.runs == plans[2].chosen.runs
    written = plans[2].to_json()
    assert written["budget"] == {"amount": 250, "unit": "EUR", "flops": 1e19}
    assert written["plan"]["amount"] == pytest.approx(250 * written["plan"]["cost"] / 1e19)
    assert set(written) == {"law", "level", "budget", "targets", "plan", "others", "notes"}


def test_costs_and_noise_of_ones_own_candidates_decide():
    found = table()
    axes = {"N": [1e9, 1e9, 2e9], "D": [3e10, 3e10, 6e10]}
    dear = Candidates.of(found, axes, cost=[1.0, 5.0, 2.0], noise=[1.0, 0.1, 1.0])
    only = plan(found, targets=[TARGET], budget=1.0, candidates=dear)
    assert [run.at for run in only.chosen.runs] == [{"N": 1e9, "D": 3e10}] and only.chosen.cost == 1.0
    assert "repeats" not in only.others  # What the table's own runs cost was not said.
    rich = plan(found, targets=[TARGET], budget=5.0, candidates=dear, max_runs=1)
    assert rich.chosen.runs[0].cost == 5.0  # A tenth of the noise.
    by_function = Candidates.grid(found, cost=lambda size, data: 1e3 + 0 * size * data)
    assert plan(found, targets=[TARGET], budget=3e3, candidates=by_function).chosen.num_runs == 3


def test_laws_of_one_axis_and_of_origins_are_planned():
    size = np.geomspace(1e5, 1e8, 10)
    one = fit("power_floor", size, truth(size, 1e12) * np.exp(1e-3 * np.random.default_rng(0).standard_normal(10)))
    made = plan(one, targets=[[1e10]], budget=1e9, candidates=Candidates.grid(one, cost=lambda n: n))
    assert made.chosen.ratio < 1
    rng = np.random.default_rng(1)
    n, a, b = (v.ravel() for v in np.meshgrid([1e5, 1e6, 1e7], [1e6, 1e7], [0.0, 1e6, 1e7]))
    mixed = fit("composition", n, a, b, measured(n, a + 0.3 * b, rng, 1e-3), labels=("N", "exposed", "searchified"))
    made = plan(mixed, targets=[{"N": 1e8, "exposed": 0.0, "searchified": 1e8}], budget=1e17)
    assert made.chosen.ratio < 1 and set(made.chosen.runs[0].at) == {"N", "exposed", "searchified"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": []}, "give at least one in a list"),
        ({"targets": {"N": 1e9, "D": 1e9}}, "give at least one in a list"),
        ({"targets": [{"N": 1e9}]}, "has no D; give N, D"),
        ({"targets": [{"N": 1e9, "D": 1e9, "C": 1e20}]}, "unknown C"),
        ({"targets": [(1e9, -1.0)]}, "D is -1"),
        ({"budget": 1.0}, "pay for no run, the cheapest costs"),
        ({"budget": -1.0}, "amount is -1"),
        ({"max_runs": 0}, "a plan has at least 1 run"),
        ({"level": 90}, "level is 90"),
    ],
)
def test_bad_input_is_one_line(options, message):
    with pytest.raises(InputError, match=message) as raised:
        plan(table(), **({"targets": [TARGET], "budget": COST} | options))
    assert "\n" not in str(raised.value)


def test_candidates_that_cannot_be_are_refused():
    found = table()
    one = fit("power_floor", SIZE[:5], truth(SIZE[:5], 1e9))
    for call, message in (
        (lambda: Candidates.of(found, {"N": [1e9]}), "'D' is missing"),
        (lambda: Candidates.of(found, {"N": [1e9], "D": [np.nan]}), "D is nan in row 0"),
        (lambda: Candidates.of(found, {"N": [1e9], "D": [1e9]}, cost=[1, 2]), "cost has shape"),
        (lambda: Candidates.of(found, {"N": [1e9], "D": [1e9]}, noise=[0]), "noise is 0 in row 0"),
        (lambda: Candidates.of(found, {"N": [1e9], "D": [1e9]}, cost=[0.0]), "no candidate has"),
        (lambda: Candidates.grid(found, within=0.5), "within is 0.5"),
        (lambda: train_flops(one, one.problem.axes), "alone does not tell the FLOPs"),
        (lambda: Budget.money(1, price_per_hour=0, flops_per_hour=1e15), "price_per_hour is 0"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(InputError, match="no degree of freedom"):
        Information.of(fit("power_floor", [1e6, 1e7, 1e8], [3.0, 2.5, 2.3]))
