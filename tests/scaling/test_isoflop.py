"""Valleys and envelopes recover planted exponents and the published ones of Porian et al. (arXiv 2406.19146)."""

import csv
import json

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.scaling.envelope import envelope
from unisc.scaling.isoflop import isoflop
from unisc.scaling.optimal import ln_optimal_size
from unisc.scaling.optimum_law import power_law, weighted_power
from unisc.scaling.runs import Runs
from unisc.scaling.valley import Parabola, valley_noise

TRUTH = np.array([1.69, 406.4, 410.7, 0.34, 0.28])  # The surface printed by Hoffmann et al.
EXPONENT = 0.28 / 0.62


def surface(size, compute):
    return TRUTH[0] + TRUTH[1] * size ** -TRUTH[3] + TRUTH[2] * (compute / (6 * size)) ** -TRUTH[4]


def planted(noise=0.0, seed=0, step=1.5, reach=8.0, budgets=8):
    """Models of one ladder, run at every budget within a factor of the optimum."""
    rng = np.random.default_rng(seed)
    ladder = np.exp(np.arange(np.log(1e6), np.log(1e12), np.log(step)) + rng.uniform(0, np.log(step)))
    size, compute = [], []
    for budget in np.geomspace(1e18, 1e21, budgets):
        best = np.exp(ln_optimal_size(TRUTH, budget, 6.0))
        size.append(ladder[(ladder > best / reach) & (ladder < best * reach)])
        compute.append(np.full(len(size[-1]), budget))
    size, compute = np.concatenate(size), np.concatenate(compute)
    return size, compute, surface(size, compute) * np.exp(noise * rng.standard_normal(len(size)))


def table(**kwargs):
    size, compute, loss = planted(**kwargs)
    return Runs.of(size=size, compute=compute, loss=loss)


def test_noiseless_valleys_give_the_planted_optima():
    found = isoflop(table(), draws=50)
    for reading in ("akima", "parabola"):
        assert found.size_law[reading].exponent == pytest.approx(EXPONENT, abs=0.005)
        assert found.data_law[reading].exponent == pytest.approx(1 - EXPONENT, abs=0.005)
        for valley in found.valleys:
            assert valley.optima[reading].size == pytest.approx(np.exp(ln_optimal_size(TRUTH, valley.compute, 6.0)), rel=0.1)
            assert valley.optima[reading].loss == pytest.approx(
                surface(np.exp(ln_optimal_size(TRUTH, valley.compute, 6.0)), valley.compute), rel=1e-3
            )


def test_intervals_hold_the_planted_exponent_about_as_often_as_they_say():
    held, tables = {"akima": 0, "parabola": 0, "envelope": 0, "far": 0}, 40
    for seed in range(tables):
        runs = table(noise=2e-3, seed=seed)
        found = isoflop(runs, draws=200, seed=seed)
        for reading in ("akima", "parabola"):
            held[reading] += found.size_law[reading].exponent_interval().holds(EXPONENT)
        held["far"] += found.size_law["akima"].at(1e23).holds(float(np.exp(ln_optimal_size(TRUTH, 1e23, 6.0))))
        held["envelope"] += envelope(runs, draws=500).size_law.exponent_interval().holds(EXPONENT)
    # A binomial with 40 draws at .9 falls below 30 once in a hundred and fifty.
    assert all(count >= 30 for count in held.values()), held


def test_noise_is_estimated_from_the_residual_spread_and_given_errors_are_used():
    size, compute, loss = planted(noise=3e-3, seed=3)
    found = isoflop(Runs.of(size=size, compute=compute, loss=loss), draws=20)
    assert found.noise == pytest.approx(3e-3, rel=0.5) and "residual" in found.noise_source
    given = isoflop(Runs.of(size=size, compute=compute, loss=loss, se=0.02 * loss), draws=200)
    assert given.noise == pytest.approx(0.02) and "standard errors" in given.noise_source
    assert np.median([v.optima["akima"].std for v in given.valleys if "akima" in v.optima]) > np.median(
        [v.optima["akima"].std for v in found.valleys]
    )
    smooth = valley_noise([(size[compute == c], surface(size[compute == c], c)) for c in np.unique(compute)])
    assert smooth < 3e-4


def test_a_budget_without_an_inside_is_reported_and_skipped():
    size, compute, loss = planted()
    lowest = compute.min()
    keep = (compute > lowest) | (size > np.exp(ln_optimal_size(TRUTH, lowest, 6.0)) * 1.6)
    found = isoflop(Runs.of(size=size[keep], compute=compute[keep], loss=loss[keep]), draws=50)
    assert len(found.skipped("akima")) == 1 and "towards the smallest" in found.skipped("akima")[0]
    assert found.size_law["akima"].exponent == pytest.approx(EXPONENT, abs=0.01)
    assert "skipped" in found.valleys[0].to_json()["akima"]
    json.dumps(found.to_json(), allow_nan=False)


def test_the_best_run_of_a_size_counts_and_a_budget_weighs_by_its_grid():
    size, compute, loss = planted()
    alone = isoflop(Runs.of(size=size, compute=compute, loss=loss), draws=0)
    worse = (size, compute * 1.05, loss * 1.01)
    size, compute, loss = (np.concatenate(pair) for pair in zip((size, compute, loss), worse, strict=True))
    both = isoflop(Runs.of(size=size, compute=compute, loss=loss), budgets=[v.compute for v in alone.valleys], draws=0)
    for one, two in zip(alone.valleys, both.valleys, strict=True):
        assert two.loss == pytest.approx(one.loss) and two.optima["akima"].size == pytest.approx(one.optima["akima"].size)
        # Without noise an optimum is known to a third of a grid step, as published.
        assert one.optima["akima"].std == pytest.approx(np.log(1.5) / 3)


def test_a_valley_lost_in_its_noise_is_skipped():
    size, compute = np.tile([1e7, 1e8, 1e9], 2), np.repeat([1e18, 1e19], 3)
    runs = Runs.of(size=size, compute=compute, loss=np.tile([3.0, 2.999, 3.0], 2), se=np.full(6, 0.3))
    with pytest.raises(InputError, match="inside its range"):
        isoflop(runs)
    clear = isoflop(Runs.of(size=size, compute=compute, loss=np.tile([3.0, 2.0, 3.0], 2), se=np.full(6, 0.01)))
    assert clear.skipped("akima") == () and clear.size_law["akima"].exponent == pytest.approx(0, abs=1e-9)


def test_training_curves_are_read_at_the_budget_and_resampled_whole():
    ladder = np.geomspace(3e7, 3e10, 16)
    size, data = (axis.ravel() for axis in np.meshgrid(ladder, np.geomspace(2, 800, 40), indexing="ij"))
    data = data * size
    loss = surface(size, 6 * size * data)
    runs = Runs.of(size=size, data=data, loss=loss, curve=[f"{s:.3g}" for s in size])
    found = envelope(runs, draws=200)
    assert found.source == "16 training curves" and found.skipped > 0
    assert found.size_law.exponent == pytest.approx(EXPONENT, abs=0.03)
    assert found.size_law.exponent_interval().holds(EXPONENT)
    valleys = isoflop(runs, draws=0)
    ratios = [v.compute / w.compute for v, w in zip(valleys.valleys[1:], valleys.valleys, strict=False)]
    assert np.allclose(ratios, 2)
    assert valleys.size_law["akima"].exponent == pytest.approx(EXPONENT, abs=0.01)


def test_a_scattered_table_has_an_envelope_over_bins():
    rng = np.random.default_rng(0)
    size, data = np.exp(rng.uniform(np.log(1e7), np.log(1e11), 3000)), np.exp(rng.uniform(np.log(1e9), np.log(1e13), 3000))
    runs = Runs.of(size=size, data=data, loss=surface(size, 6 * size * data))
    found = envelope(runs, bins_per_decade=3)
    assert found.source == "bins of 0.333 decades"
    assert found.size_law.exponent_interval(0.99).holds(EXPONENT)


def test_two_budgets_fix_the_line_and_give_no_interval():
    law = power_law([1e18, 1e20], [1e8, 1e9])
    assert law.exponent == pytest.approx(0.5)
    assert not law.exponent_interval().bounded and "two budgets" in law.exponent_interval().note
    with pytest.raises(InputError, match="two budgets or more"):
        power_law([1e18, 1e18], [1e8, 1e9])


def test_compute_and_data_follow_from_each_other_and_a_factor():
    by_data = Runs.of(size=[1e6, 2e6], data=[1e8, 1e8], loss=[3, 2], flops_factor=2.0)
    assert by_data.compute == pytest.approx([2e14, 4e14]) and by_data.flops_counted == "2 x size x data"
    by_both = Runs.of(size=[1e6, 2e6], data=[1e8, 1e8], compute=[2e14, 8e14], loss=[3, 2])
    assert by_both.factor_spread == pytest.approx(2) and "2.00-fold" in by_both.factor_warning()[0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"size": [1e6], "loss": [1.0]}, "neither data nor compute"),
        ({"size": [1e6, -3], "data": [1e6, 1e6], "loss": [1, 1]}, "size is -3 in row 1"),
        ({"size": [1e6, 1e7], "data": [1e6, 1e6], "loss": [1, 0]}, "loss is 0 in row 1"),
        ({"size": [1e6, 1e7], "compute": [1e6, np.nan], "loss": [1, 1]}, "compute is nan in row 1"),
        ({"size": [1e6, 1e7], "data": [1e6], "loss": [1, 1]}, "data has shape"),
        ({"size": [], "data": [], "loss": []}, "table is empty"),
        ({"size": [1e6], "data": [1e6], "loss": [1.0], "flops_factor": -6}, "flops_factor is -6"),
        ({"size": [1e6], "data": [1e6], "loss": [1.0], "curve": ["a", "b"]}, "one label a run"),
    ],
)
def test_a_bad_table_is_one_line(columns, message):
    with pytest.raises(InputError, match=message) as caught:
        Runs.of(**columns)
    assert "\n" not in str(caught.value)


def test_tables_without_valleys_are_refused():
    with pytest.raises(InputError, match="runs of 3 sizes"):
        isoflop(Runs.of(size=[1e6, 1e7, 1e8], compute=[1e18, 2e18, 4e18], loss=[3, 2, 1]))
    with pytest.raises(InputError, match="inside its range of sizes"):
        isoflop(Runs.of(size=[1e6, 1e7, 1e8], compute=[1e18] * 3, loss=[3, 2, 1]))
    with pytest.raises(InputError, match="neither the smallest nor the largest"):
        envelope(Runs.of(size=[1e6, 1e7, 1e8], compute=[1e18] * 3, loss=[3, 2, 1]))
    with pytest.raises(InputError, match="tolerance is 0"):
        isoflop(table(), tolerance=0)
    with pytest.raises(InputError, match="points is 2"):
        Parabola(points=2)
    with pytest.raises(InputError, match="budgets must be positive"):
        isoflop(table(), budgets=[-1e18])


@pytest.fixture
def porian(published):
    """Return the rows of a table of arXiv 2406.19146 by configuration."""

    def rows(name):
        out = {}
        with (published("porian_isoflop") / name).open() as lines:
            for row in csv.DictReader(lines):
                out.setdefault(row["config"], []).append(row)
        return out

    return rows


@pytest.fixture
def exponents(porian):
    """Return the published exponent of each configuration."""
    table = porian("published_fits.csv")
    return {config: float(row["n_exponent"]) for config in table for row in table[config] if row["method"] == "weighted"}


@pytest.mark.real_data
def test_weighted_exponents_of_the_published_optima(porian, exponents):
    pairs = porian("optimal_pairs.csv")
    assert len(exponents) == 15
    for config, rows in pairs.items():
        rows = [row for row in rows if row["n"]]  # Four budgets have no interior optimum and are blank.
        columns = [[float(row[name]) for row in rows] for name in ("flops", "n", "n_star_std")]
        assert float(weighted_power(*columns)[0]) == pytest.approx(exponents[config], abs=1e-9)


@pytest.mark.real_data
def test_exponents_from_the_published_points(porian, exponents):
    points = porian("isoflop_points.csv")
    gaps = {}
    for config, rows in points.items():
        columns = {
            key: [float(row[name]) for row in rows]
            for key, name in {"compute": "flops", "size": "n", "data": "t", "loss": "loss"}.items()
        }
        found = isoflop(Runs.of(**columns))
        gaps[config] = found.size_law["akima"].exponent - exponents[config]
        assert found.size_law["akima"].exponent_interval(0.95).holds(exponents[config])
        assert 10 <= sum("akima" in valley.optima for valley in found.valleys) <= 12
    assert len(gaps) == 15
    assert max(map(abs, gaps.values())) < 0.01, gaps
