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


def test_bad_requests_are_refused():
    found = fit("chinchilla", *noisy(0))
    with pytest.raises(InputError, match="has no parameter 'gamma'"):
        profile(found, "gamma")
    with pytest.raises(InputError, match="2 clusters says nothing"):
        bootstrap(found, clusters=np.arange(60) % 2)
    with pytest.raises(InputError, match="one label a run"):
        bootstrap(found, clusters=np.arange(3))


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
