"""Planted laws are recovered, optima are certified, and tables that cannot be fitted are refused in one line."""

import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.scaling import Contract, bootstrap, fit

SIZES, DATA = np.geomspace(2e3, 3e5, 6), np.geomspace(2e4, 6e5, 5)
TRUTH = {"E": 0.30, "A": 0.6, "B": 2.0, "alpha": 0.30, "beta": 0.35}


def grid(repeats=1):
    size, data = (axis.ravel().repeat(repeats) for axis in np.meshgrid(SIZES, DATA))
    return size, data, TRUTH["E"] + TRUTH["A"] / size ** TRUTH["alpha"] + TRUTH["B"] / data ** TRUTH["beta"]


@pytest.mark.parametrize("space", ["loss", "log"])
@pytest.mark.parametrize("loss", ["squared", "huber", "absolute"])
def test_an_exact_table_gives_back_its_law(space, loss):
    found = fit("chinchilla", *grid(), contract=Contract(space=space, loss=loss))
    for name, value in TRUTH.items():
        assert found.params[name] == pytest.approx(value, rel=2e-3)


def test_weights_and_standard_errors_silence_a_bad_run():
    size, data, loss = grid()
    loss = loss.copy()
    loss[7] *= 1.2
    squared = Contract(loss="squared")
    se = np.full(len(loss), 1e-3)
    se[7] = 10.0
    weights = np.ones(len(loss))
    weights[7] = 0.0
    plain = fit("chinchilla", size, data, loss, contract=squared).params["E"]
    assert abs(plain - TRUTH["E"]) > 0.005
    for options in ({"se": se}, {"weights": weights}):
        found = fit("chinchilla", size, data, loss, contract=squared, **options)
        assert found.params["E"] == pytest.approx(TRUTH["E"], rel=1e-3)


def test_own_starts_are_polished_and_counted():
    found = fit("chinchilla", *grid(), num_starts=4, starts=[0.2, 1.0, 1.0, 0.5, 0.5])
    assert found.certificate.num_starts == 5
    assert found.params["alpha"] == pytest.approx(TRUTH["alpha"], rel=1e-3)


def test_a_second_basin_predicts_too():
    # One break seen by few runs: some starts end where the break lies elsewhere.
    size = np.geomspace(1e2, 1e6, 17)
    loss = 0.4 + 2.3 * size**-0.05 * (1 + (size / 6e2) ** 16) ** (-5.6 / 16)
    found = fit(
        "bnsl", size, loss * np.exp(2e-3 * np.random.default_rng(0).standard_normal(17)), contract=Contract(loss="squared")
    )
    second = found.certificate.second
    assert second is not None and second.objective > found.objective
    assert found.second_prediction(1e7) != pytest.approx(found.predict(1e7)[0], rel=1e-6)
    assert fit("power", SIZES, 5.0 * SIZES**-0.3).second_prediction(1e7) is None


def test_a_law_without_a_floor_says_that_the_floor_met_its_bound():
    found = fit("power_floor", SIZES, 5.0 * SIZES**-0.3)
    assert "E at its lower bound" in found.certificate.bounds_hit
    assert found.params["alpha"] == pytest.approx(0.3, abs=2e-3)


def test_log_linear_solves_its_linear_problem():
    size, data, _ = grid()
    found = fit("log_linear", size, data, 3.0 - 0.1 * np.log(size) - 0.05 * np.log(data), contract=Contract(space="loss"))
    assert found.params == pytest.approx({"c0": 3.0, "c1": -0.1, "c2": -0.05})
    assert found.predict(1e6, 1e6)[0] == pytest.approx(3.0 - 0.15 * np.log(1e6))


def test_fits_under_different_contracts_refuse_to_be_compared():
    huber, squared = (fit("chinchilla", *grid(), contract=Contract(loss=loss)) for loss in ("huber", "squared"))
    assert huber.compare(huber) == 0
    with pytest.raises(InputError, match="loss: huber != squared"):
        huber.compare(squared)
    with pytest.raises(InputError, match="params_counted"):
        huber.compare(fit("chinchilla", *grid(), contract=Contract(params_counted="all")))


def test_fixed_parameters_stay_and_the_rest_is_fitted():
    found = fit("chinchilla", *grid(), fixed={"E": 0.30, "alpha": 0.30})
    assert found.params["E"] == pytest.approx(0.30) and found.params["alpha"] == pytest.approx(0.30)
    assert found.num_free == 3 and found.params["beta"] == pytest.approx(0.35, rel=1e-3)
    with pytest.raises(InputError, match="A cannot be fixed while its exponent alpha is free"):
        fit("chinchilla", *grid(), fixed={"A": 0.6})
    with pytest.raises(InputError, match="has no parameter 'floor'"):
        fit("chinchilla", *grid(), fixed={"floor": 0.3})


def test_a_rising_metric_is_fitted_and_predicted_in_its_own_units():
    contract = Contract(space="logit", loss="squared", metric="auc_roc", better="higher", lower=0.5, upper=1.0)
    quality = 1.0 - (0.2 + 3.0 * SIZES**-0.4)
    found = fit("power_floor", SIZES, quality, contract=contract)
    assert found.params == pytest.approx({"E": 0.2, "A": 3.0, "alpha": 0.4}, rel=1e-3)
    np.testing.assert_allclose(found.predict(SIZES), quality, rtol=1e-6)


def test_a_gain_of_either_sign_reaches_its_limit():
    contract = Contract(space="loss", loss="squared", metric="gain", better="higher")
    gain = 0.02 - 2.0 * SIZES**-0.5
    assert gain.min() < 0 < gain.max()
    found = fit("power_limit", SIZES, gain, contract=contract)
    assert found.params == pytest.approx({"E": -0.02, "A": 2.0, "alpha": 0.5}, rel=1e-3)


def test_a_contract_survives_its_json():
    contract = Contract(loss="absolute", trimming="5 highest", params_counted="num_params_active")
    assert Contract.from_json(contract.to_json()) == contract
    with pytest.raises(InputError, match="unknown key 'delta'"):
        Contract.from_json({"delta": 1.0})


def broken(column, row, value):
    table = [values.copy() for values in grid()]
    table[column][row] = value
    return table


class TestBadInput:
    CASES: ClassVar = {
        "NaN loss": (broken(2, 3, np.nan), "loss is nan in row 3"),
        "infinite size": (broken(0, 2, np.inf), "N is inf in row 2"),
        "zero data": (broken(1, 4, 0.0), "D is 0 in row 4"),
        "negative loss in log space": (broken(2, 1, -0.5), "log space needs positive losses"),
        "fewer runs than parameters": ([values[:4] for values in grid()], "(has one distinct value|4 runs cannot fit)"),
        "few runs of many sizes": ([values[::7][:4] for values in grid()], "4 runs cannot fit the 5 parameters"),
        "one size": ([np.full(30, 5e3), *grid()[1:]], "N has one distinct value, 5000"),
        "unequal columns": ([grid()[0][:-1], *grid()[1:]], "N has shape"),
        "empty": ([[], [], []], "loss column is empty"),
    }

    @pytest.mark.parametrize("case", CASES)
    def test_is_refused_in_one_line(self, case):
        table, message = self.CASES[case]
        with pytest.raises(InputError, match=message) as raised:
            fit("chinchilla", *table)
        assert "\n" not in str(raised.value)

    def test_unknown_names_list_the_known_ones(self):
        with pytest.raises(InputError, match="choose one of power, power_floor"):
            fit("hoffmann", *grid())
        with pytest.raises(InputError, match="huber, squared, absolute"):
            Contract(loss="cauchy")
        with pytest.raises(InputError, match=r"takes 2 axes .N, D., and got 1; use 'power' or 'power_floor'"):
            fit("chinchilla", SIZES, np.ones(6))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"space": "logit"}, "needs the metric's bounds"),
            ({"lower": 0.5}, "one bound of the metric without the other"),
            ({"lower": 1.0, "upper": 0.5}, "hold no metric between them"),
            ({"better": "higher"}, "has no logarithm"),
            ({"better": "more"}, "choose lower or higher"),
        ],
    )
    def test_contracts_that_contradict_themselves(self, options, message):
        with pytest.raises(InputError, match=message):
            Contract(**options)

    def test_a_metric_outside_its_bounds(self):
        contract = Contract(space="logit", metric="auc_roc", better="higher", lower=0.5, upper=1.0)
        with pytest.raises(InputError, match=r"auc_roc is 0\.4 in row 0, outside its bounds 0\.5 and 1"):
            fit("power_floor", SIZES, np.linspace(0.4, 0.8, 6), contract=contract)
        with pytest.raises(InputError, match="on its bound, which has no logit"):
            fit("power_floor", SIZES, np.linspace(0.5, 0.8, 6), contract=contract)

    def test_a_table_without_any_change(self):
        with pytest.raises(InputError, match="is 2 in every run"):
            fit("power_floor", SIZES, np.full(6, 2.0))

    def test_zero_standard_error_is_refused(self):
        with pytest.raises(InputError, match="se is 0 in row 0"):
            fit("chinchilla", *grid(), se=np.zeros(30))


def test_importing_the_package_is_quick_and_free_of_jax():
    code = "import sys, time; t = time.perf_counter(); import unisc.scaling; print(time.perf_counter() - t)"
    code += "; assert not {'jax', 'flax'} & set(sys.modules)"
    command = [sys.executable, "-c", code]
    # About 0.6 s alone; the first may compile modules, and other tests take their share of the cores.
    taken = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    assert min(taken) < 2.0


def test_bootstrap_is_deterministic_by_seed():
    size, data, loss = grid()
    found = fit("chinchilla", size, data, loss * np.exp(1e-3 * np.random.default_rng(1).standard_normal(30)))
    first, again, other = (bootstrap(found, draws=20, seed=seed).draws for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
