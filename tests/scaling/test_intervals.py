"""Intervals hold planted truths about as often as they say, and open ends are called unbounded."""

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.scaling import Contract, Interval, bootstrap, fit, profile, summarise

SIZES, DATA = np.geomspace(2e3, 3e5, 6), np.geomspace(2e4, 6e5, 5)
TRUTH = {"E": 0.30, "A": 0.6, "B": 2.0, "alpha": 0.30, "beta": 0.35}


def law(size, data):
    return TRUTH["E"] + TRUTH["A"] / size ** TRUTH["alpha"] + TRUTH["B"] / data ** TRUTH["beta"]


def noisy(seed, noise=1e-3, repeats=2):
    size, data = (axis.ravel().repeat(repeats) for axis in np.meshgrid(SIZES, DATA))
    return size, data, law(size, data) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(size)))


def test_ninety_percent_intervals_cover_about_ninety_percent():
    tables, held = 30, dict.fromkeys([*TRUTH, "ten times larger", "profile of E"], 0)
    for seed in range(tables):
        found = fit("chinchilla", *noisy(seed), contract=Contract(loss="squared"), num_starts=12)
        boot = bootstrap(found, draws=150, seed=seed)
        for name, truth in TRUTH.items():
            held[name] += boot.interval(name).holds(truth)
        held["ten times larger"] += boot.prediction(3e6, 6e6).holds(law(3e6, 6e6))
        held["profile of E"] += profile(found, "E").holds(TRUTH["E"])
    # A binomial with 30 draws at .9 falls below 22 once in five hundred.
    assert all(count >= 22 for count in held.values()), held
    assert sum(held.values()) < 0.97 * tables * len(held), held


def test_wider_level_gives_a_wider_interval_around_the_value():
    boot = bootstrap(fit("chinchilla", *noisy(0)), draws=300)
    narrow, wide = boot.interval("E", 0.90), boot.interval("E", 0.95)
    assert wide.low <= narrow.low <= narrow.value <= narrow.high <= wide.high
    low, high = boot.band(SIZES, DATA.max())
    assert (low <= boot.fit.predict(SIZES, DATA.max())).all() and (boot.fit.predict(SIZES, DATA.max()) <= high).all()


def test_profile_and_bootstrap_agree_on_a_well_determined_floor():
    found = fit("chinchilla", *noisy(1, noise=3e-4, repeats=3), contract=Contract(loss="squared"))
    by_profile, by_bootstrap = profile(found, "E"), bootstrap(found, draws=400).interval("E")
    assert by_profile.bounded and by_bootstrap.bounded
    ratio = (by_profile.high - by_profile.low) / (by_bootstrap.high - by_bootstrap.low)
    assert 0.6 < ratio < 1.7


def test_a_floor_no_table_can_see_is_unbounded_below():
    # Six sizes over a decade with one percent of noise: a pure power law and one with a floor fit alike.
    size = np.geomspace(1e4, 1e5, 6)
    loss = (0.05 + 5.0 * size**-0.2) * np.exp(0.01 * np.random.default_rng(0).standard_normal(6))
    found = fit("power_floor", size, loss, contract=Contract(loss="squared"))
    interval = profile(found, "E")
    assert interval.low is None and not interval.bounded
    assert "unbounded below" in interval.note
    assert "unbounded" in str(interval)
    assert interval.holds(0.0)
    boot = bootstrap(found, draws=300).interval("E")
    assert boot.low is None and "lower bound" in boot.note
    assert boot.to_json()["low"] is None


def test_clusters_are_resampled_whole():
    size, data, loss = noisy(2, noise=0.0, repeats=3)
    # One shared error per cell: three seeds are one observation of the law, and the interval must know it.
    cells = np.arange(len(size)) // 3
    loss = loss * np.exp(2e-3 * np.random.default_rng(5).standard_normal(30))[cells]
    found = fit("chinchilla", size, data, loss, contract=Contract(loss="squared"))
    cases, clusters = bootstrap(found, draws=300), bootstrap(found, clusters=cells, draws=300)
    assert clusters.num_clusters == 30
    assert clusters.standard_errors()["E"] > 1.3 * cases.standard_errors()["E"]


def test_clusters_set_the_width_of_intervals_and_keep_their_shape():
    size, data, loss = noisy(2, noise=0.0, repeats=3)
    cells = np.arange(len(size)) // 3
    loss = loss * np.exp(2e-3 * np.random.default_rng(5).standard_normal(30))[cells]
    found = fit("chinchilla", size, data, loss, contract=Contract(loss="squared"))
    alone, together = bootstrap(found, draws=300), bootstrap(found, clusters=cells, draws=300)
    for narrow, wide in (
        (alone.interval("alpha"), together.interval("alpha")),
        (alone.prediction(3e6, 6e6), together.prediction(3e6, 6e6)),
    ):
        # Three equal runs in each cell: the errors of 30 are taken for those of 90.
        assert 1.3 < (wide.high - wide.low) / (narrow.high - narrow.low) < 2.5
    assert together.interval("alpha").method == "profile as wide as the cluster bootstrap (30 clusters)"
    assert alone.interval("alpha") == profile(found, "alpha")


def straight(noise, seed=0):
    size = np.geomspace(1e3, 1e7, 40)
    return size, 4.0 - 0.1 * np.log(size) + noise * np.random.default_rng(seed).standard_normal(40)


def textbook(size, loss, robust):
    """Return the standard error of a slope by least squares, or by White's estimate for errors that differ."""
    design = np.stack([np.ones_like(size), np.log(size)], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    residual = loss - design @ np.linalg.lstsq(design, loss, rcond=None)[0]
    square = residual**2 if robust else np.full(len(size), (residual**2).mean())
    return np.sqrt((inverse @ (design.T * square) @ design @ inverse)[1, 1] * len(size) / (len(size) - 2))


@pytest.mark.parametrize(("kind", "robust"), [("residual", False), ("wild", True), ("case", True)])
def test_each_kind_gives_the_standard_error_of_its_textbook(kind, robust):
    # Errors that grow with the distance from the middle: what is taken for alike is then too small by a third.
    size, loss = straight(0.01 * np.abs(np.linspace(-1, 1, 40)))
    found = fit("log_linear", size, loss, contract=Contract(space="loss", loss="squared"))
    error = bootstrap(found, kind=kind, draws=4000).standard_errors()["c1"]
    assert error == pytest.approx(textbook(size, loss, robust), rel=0.10)
    assert abs(error / textbook(size, loss, not robust) - 1) > 0.2


def test_unequal_errors_widen_a_profile_to_the_bootstrap():
    at = np.linspace(-1, 1, 40)
    contract = Contract(space="loss", loss="squared")
    equal, unequal = (
        bootstrap(fit("log_linear", *straight(noise), contract=contract), draws=1000) for noise in (0.01, 0.02 * at**2)
    )
    assert equal.interval("c1") == profile(equal.fit, "c1")
    assert equal.prediction(1e8).method == "profile"
    plain, widened = profile(unequal.fit, "c1"), unequal.interval("c1")
    assert widened.method == "profile as wide as the case bootstrap"
    by_draws = unequal.interval("c1", method="percentile")
    assert widened.high - widened.low > 1.25 * (plain.high - plain.low)
    assert widened.high - widened.low == pytest.approx(by_draws.high - by_draws.low, rel=0.05)
    assert unequal.prediction(1e9).method == "profile as wide as the case bootstrap"
    # Residuals that are taken for alike say nothing of it.
    assert bootstrap(unequal.fit, kind="residual", draws=50).interval("c1") == plain


def test_percentile_and_basic_intervals_mirror_each_other():
    size, loss = straight(0.01)
    boot = bootstrap(fit("log_linear", size, loss, contract=Contract(space="loss", loss="squared")), draws=500)
    for percentile, basic in (
        (boot.interval("c1", method="percentile"), boot.interval("c1", method="basic")),
        (boot.prediction(1e8, method="percentile"), boot.prediction(1e8, method="basic")),
    ):
        assert percentile.value - percentile.low == pytest.approx(basic.high - basic.value)
        assert percentile.high - percentile.value == pytest.approx(basic.value - basic.low)


def test_a_band_is_the_prediction_at_each_size():
    boot = bootstrap(fit("chinchilla", *noisy(0)), draws=50)
    low, high = boot.band(np.geomspace(1e3, 1e7, 40), 1e6)
    for place in (0, 17, 39):
        interval = boot.prediction(np.geomspace(1e3, 1e7, 40)[place], 1e6)
        assert high[place] - low[place] == pytest.approx(interval.high - interval.low, rel=0.03)


def test_bad_requests_are_refused():
    found = fit("chinchilla", *noisy(0))
    with pytest.raises(InputError, match="has no parameter 'gamma'"):
        profile(found, "gamma")
    with pytest.raises(InputError, match="2 clusters says nothing"):
        bootstrap(found, clusters=np.arange(60) % 2)
    with pytest.raises(InputError, match="one label a run"):
        bootstrap(found, clusters=np.arange(3))
    with pytest.raises(InputError, match="needs clusters"):
        bootstrap(found, kind="cluster")
    with pytest.raises(InputError, match="resamples single runs"):
        bootstrap(found, kind="residual", clusters=np.arange(60))
    with pytest.raises(InputError, match="kind 'jackknife' is unknown"):
        bootstrap(found, kind="jackknife")
    with pytest.raises(InputError, match="method 'bca' is unknown"):
        bootstrap(found, draws=2).interval("E", method="bca")


def test_a_summary_without_bootstrap_says_that_there_is_no_interval():
    found = fit("chinchilla", *noisy(0))
    assert "no interval" in summarise(found, None)["E"]["note"]
    assert summarise(found, bootstrap(found, draws=50))["alpha"]["low"] < found.params["alpha"]
    assert Interval(value=1.0, low=0.5, high=None, level=0.9, method="x").holds(9.0)


def test_a_flat_valley_opens_the_bootstrap_instead_of_hiding_in_it():
    # Two data sizes fix one number of E, B and beta: refits that start at the optimum never leave it, profiles do.
    size, data = (axis.ravel().repeat(3) for axis in np.meshgrid(SIZES, DATA[[0, -1]]))
    loss = law(size, data) * np.exp(3e-4 * np.random.default_rng(0).standard_normal(len(size)))
    boot = bootstrap(fit("chinchilla", size, data, loss, contract=Contract(loss="squared")), draws=200)
    assert boot.interval("alpha").bounded
    for name in ("B", "beta"):
        assert not boot.interval(name).bounded, name
        assert "profile of beta" in boot.interval(name).note
    assert boot.interval("E").holds(TRUTH["E"])
    seen, beyond = boot.prediction(SIZES[-1], DATA[-1]), boot.prediction(SIZES[-1], 100 * DATA[-1])
    assert beyond.holds(law(SIZES[-1], 100 * DATA[-1]))
    assert beyond.high - beyond.low > 10 * (seen.high - seen.low)
