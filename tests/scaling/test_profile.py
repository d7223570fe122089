"""Profiles: exact where the truth is known in closed form, open where nothing holds a value back."""

import numpy as np
import pytest
from scipy.stats import t as student

from unisc.errors import InputError
from unisc.scaling import Contract, fit, profile, profile_prediction, profiles
from unisc.scaling.fit import points
from unisc.scaling.profile import rise_to_statistic

SQUARED = Contract(space="loss", loss="squared")
SIZES, DATA = np.geomspace(2e3, 3e5, 6), np.geomspace(2e4, 6e5, 5)


def straight(seed=0):
    """A table whose law is linear in its parameters: profiles must be Student's intervals."""
    size, data = (axis.ravel() for axis in np.meshgrid(SIZES, DATA))
    noise = 0.01 * np.random.default_rng(seed).standard_normal(len(size))
    return size, data, 4.0 - 0.1 * np.log(size) - 0.05 * np.log(data) + noise


def least_squares(size, data, loss, at):
    """Return a linear combination's estimate and half width by the textbook."""
    design = np.stack([np.ones_like(size), np.log(size), np.log(data)], axis=1)
    beta, rss = np.linalg.lstsq(design, loss, rcond=None)[:2]
    degrees = len(loss) - 3
    error = np.sqrt(at @ np.linalg.inv(design.T @ design) @ at * rss[0] / degrees)
    return at @ beta, student.ppf(0.95, degrees) * error


def test_a_linear_law_has_students_intervals():
    table = straight()
    found = fit("log_linear", *table, contract=SQUARED)
    for index, name in enumerate(found.law.names):
        value, half = least_squares(*table, np.eye(3)[index])
        interval = profile(found, name)
        assert interval.value == pytest.approx(value, rel=1e-6)
        assert interval.low == pytest.approx(value - half, rel=1e-3)
        assert interval.high == pytest.approx(value + half, rel=1e-3)


def test_a_prediction_has_students_interval_as_well():
    table = straight(1)
    value, half = least_squares(*table, np.array([1.0, np.log(3e6), np.log(6e6)]))
    interval = profile_prediction(fit("log_linear", *table, contract=SQUARED), 3e6, 6e6)
    assert (interval.low, interval.high) == pytest.approx((value - half, value + half), rel=1e-3)


def test_a_profile_rises_on_both_sides_of_the_optimum():
    size = np.geomspace(1e3, 1e7, 12).repeat(3)
    loss = (0.3 + 20.0 * size**-0.4) * np.exp(0.01 * np.random.default_rng(0).standard_normal(36))
    found = fit("power_floor", size, loss, contract=Contract(loss="squared"))
    of_exponent, of_prediction = profiles(found, ["alpha"], points([1e8]))
    assert (np.diff(of_exponent.values) >= 0).all()
    best = np.argmin(of_exponent.statistic)
    assert (np.diff(of_exponent.statistic[: best + 1]) <= 1e-6).all() and (np.diff(of_exponent.statistic[best:]) >= -1e-6).all()
    for found_profile in (of_exponent, of_prediction):
        ends = np.interp(
            [found_profile.interval.low, found_profile.interval.high], found_profile.values, found_profile.statistic
        )
        assert ends == pytest.approx(found_profile.limit, rel=0.05)
    # Each point is a refit: evaluating its parameters gives back the value and the statistic.
    again = found.problem.objective(of_exponent.theta, found.weight, None)
    np.testing.assert_allclose((again - found.objective) * rise_to_statistic(found), of_exponent.statistic, atol=1e-6)
    np.testing.assert_allclose(found.law.natural(of_exponent.theta)[:, 2], of_exponent.values, rtol=1e-9)


def test_runs_a_median_fit_passes_through_do_not_count_as_small_residuals():
    # With 30 runs and 5 parameters least absolute deviations leave 5 residuals at zero, which feign a high density there.
    size, data = (axis.ravel() for axis in np.meshgrid(SIZES, DATA))
    law = 0.3 + 20.0 / size**0.4 + 30.0 / data**0.35
    rises = []
    for seed in range(12):
        loss = law * np.exp(0.01 * np.random.default_rng(seed).standard_normal(30))
        found = fit("chinchilla", size, data, loss, contract=Contract(huber_delta=1e-4), num_starts=6)
        rises.append(rise_to_statistic(found))
    # In the limit 2 x (twice the density of N(0, .01) at zero) / delta, less the share of degrees of freedom.
    assert np.median(rises) == pytest.approx(4 / (0.01 * np.sqrt(2 * np.pi)) * 25 / 30 / 1e-4, rel=0.35)


def test_an_exact_table_has_points_for_intervals():
    found = fit("power_floor", SIZES, 0.3 + 20.0 * SIZES**-0.4, contract=Contract(loss="squared"))
    interval = profile(found, "alpha")
    assert interval.low == pytest.approx(0.4, abs=1e-3) and interval.high == pytest.approx(0.4, abs=1e-3)


def test_what_cannot_be_profiled_is_refused():
    found = fit("log_linear", *straight(), contract=SQUARED, fixed={"c1": -0.1})
    with pytest.raises(InputError, match=r"c1 was fixed at -0\.1"):
        profile(found, "c1")
    three = fit("power_floor", SIZES[:3], [3.0, 2.0, 1.5])
    with pytest.raises(InputError, match="no degree of freedom"):
        profile(three, "E")
