"""Figures of fits: drawn from any fit without a warning, text kept as text, equal files for equal fits, sizes said."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest

from analysis import figures
from unisc.errors import InputError
from unisc.report import style
from unisc.scaling import (
    Candidates,
    Contract,
    Interval,
    Runs,
    bootstrap,
    compute_optimal,
    effective_speedup,
    fit,
    isoflop,
    plan,
    profiles,
    robustness,
    tournament,
)
from unisc.scaling.speedup import Recipe

ORIGINS = ("exposed", "attributed", "searchified")


def table(sizes=5, datas=4, noise=1e-3):
    size, data = (a.ravel() for a in np.meshgrid(np.geomspace(1e4, 1e6, sizes), np.geomspace(1e5, 1e7, datas)))
    loss = 0.3 + 0.6 * size**-0.3 + 2 * data**-0.35
    return size, data, loss * np.exp(noise * np.random.default_rng(0).standard_normal(len(size)))


def runs():
    compute, factor = (a.ravel() for a in np.meshgrid(np.geomspace(1e17, 1e19, 4), np.geomspace(1 / 6, 6, 7), indexing="ij"))
    size = factor * 1e8 * (compute / 1e18) ** 0.45
    loss = 1.7 + 400 * size**-0.34 + 410 * (compute / 6 / size) ** -0.28
    noisy = loss * np.exp(1e-3 * np.random.default_rng(0).standard_normal(len(size)))
    return Runs.of(size=size, compute=compute, loss=noisy)


@pytest.fixture(scope="module")
def surface():
    found = fit("chinchilla", *table(), contract=Contract(loss="squared"))
    return found, bootstrap(found, draws=30)


@pytest.fixture(scope="module")
def mixed():
    """Fits of both composition laws to runs of four mixes."""
    size, data, _ = table(4, 3)
    examples = (data[:, None, None] * np.array([(1, 0, 0), (1, 1, 0), (1, 0.5, 1), (1, 1, 2)])).reshape(-1, 3).T
    size = np.repeat(size, 4)
    effective = examples[0] + 0.6 * examples[1] + (0.3 + 0.05 * np.log(size / 1e5)) * examples[2]
    loss = 0.3 + 0.6 * size**-0.3 + 2 * effective**-0.35
    loss = loss * np.exp(1e-3 * np.random.default_rng(1).standard_normal(len(size)))
    contract, labels = Contract(loss="squared"), ("N", *ORIGINS)
    return [fit(law, size, *examples, loss, contract=contract, labels=labels) for law in ("composition", "composition_by_size")]


def texts(figure):
    """Return what a figure says, by its SVG; the figure is closed."""
    return [re.sub(r"<[^>]+>", "", found) for found in re.findall(r"<text[^>]*>(.*?)</text>", style.svg(figure), re.DOTALL)]


def says(figure, *wanted):
    said = " | ".join(texts(figure))
    for words in wanted:
        assert words in said, f"{words!r} is not in {said}"
    return said


def test_a_law_with_held_out_runs_and_a_target(surface):
    found, boot = surface
    target = ({"N": 1e7, "D": 1e8}, boot.prediction(1e7, 1e8))
    held = (np.array([[3e6, 3e6], [1e7, 2e7]]), np.array([0.31, 0.309]))
    figure = figures.law_curves(found, boot, held=held, targets=[target], seeds=3)
    says(
        figure, "chinchilla, 20 runs of 3 seeds; 90% intervals",
        "profile and case bootstrap, 30 resamples", "held out (2 runs)", "beyond the runs fitted",
        "D = 100k", "training FLOPs C = 6 N D", "prediction",
    )  # fmt: skip


@pytest.mark.parametrize("law", ["power_floor", "log_linear"])
def test_a_law_of_one_axis_without_a_bootstrap(law):
    size, _, loss = table(6, 1)
    figure = figures.law_curves(fit(law, size, loss))
    assert len(figure.axes) == 1
    said = says(figure, f"{law}, 6 runs; no intervals", "parameters N")
    assert "beyond" not in said


def test_laws_of_three_axes_and_of_a_metric_that_rises(mixed):
    size, data, loss = table()
    distinct = np.minimum(data, 1e6)
    constrained = fit("data_constrained", size, data, distinct, loss, contract=Contract(loss="squared"))
    says(figures.law_curves(constrained), "data_constrained, 20 runs")
    says(figures.law_curves(mixed[0]), "law at its best size, mean composition")
    auc = Contract(space="logit", better="higher", lower=0.5, upper=1.0, metric="auc_roc", loss="squared")
    rising = fit("chinchilla", size, data, 0.8 - (loss - 0.3), contract=auc)
    says(figures.law_curves(rising), "auc roc")
    says(figures.residuals(rising), "residual (logit)", "predicted auc roc")


def test_equal_fits_make_equal_files(surface):
    found, boot = surface
    first, second = (style.svg(figures.law_curves(found, boot)) for _ in range(2))
    assert first == second and "<image" not in first


def test_residuals_name_the_runs_that_are_furthest_off():
    size, data, loss = table()
    loss[13] *= 1.2
    found = fit("chinchilla", size, data, loss)
    said = texts(figures.residuals(found))
    assert "13" in said and any("median |residual|" in text for text in said)


def test_valleys_state_their_powers_and_what_they_leave_out():
    found = isoflop(runs(), draws=40)
    says(figures.isoflop_valleys(found), "akima: exponent 0.", "28 best runs per size at 4 budgets; 90% intervals", "1e19")
    valley = found.valleys[0]
    x, y = valley.parabola_curve(found.parabola)
    bottom = valley.optima["parabola"]
    assert y.min() == pytest.approx(bottom.loss, rel=1e-6) and x[y.argmin()] == pytest.approx(bottom.size, rel=0.05)
    lonely = dataclasses.replace(found, size_law={}, data_law={}, valleys=found.valleys[:1])
    says(figures.isoflop_valleys(lonely), "at 1 budgets")


def test_approaches_and_speedup():
    found = compute_optimal(runs(), draws=30)
    says(figures.approaches(found), "envelope (4)", "parametric (28)", "at 1e20 FLOPs")
    recipe = {name: getattr(runs(), name) for name in ("size", "data", "loss")}
    a, b = Recipe.of("old", **recipe, draws=20), Recipe.of("new", **recipe | {"loss": recipe["loss"] - 0.05}, draws=20)
    says(figures.speedup(effective_speedup(a, b, [1e18, 1e19])), "speedup of new", "training FLOPs of old", "90% intervals")


def test_compositions_in_one_currency(mixed):
    plain, by_size = mixed
    boot = bootstrap(plain, draws=30)
    shown = f"{plain.params['w_searchified']:.2f} ["
    says(figures.composition_curves(plain, boot), shown, "worth in exposed examples", "exposed alone", "with searchified")
    says(figures.composition_curves(by_size), "Rates by size", "at the mean size", "no intervals")
    with pytest.raises(InputError, match="need the law 'composition'"):
        figures.composition_curves(fit("chinchilla", *table()))


def test_an_open_end_of_an_exchange_rate_is_drawn_and_written(mixed):
    boot = bootstrap(mixed[0], draws=30)
    opened = SimpleNamespace(
        interval=lambda name, level: dataclasses.replace(boot.interval(name, level), high=None, note="unbounded above"),
        method=boot.method, draws=boot.draws,
    )  # fmt: skip
    says(figures.composition_curves(mixed[0], opened), "unbounded]")


def test_profiles_mark_where_no_limit_was_met():
    values = np.linspace(0.1, 0.5, 21)
    closed = Interval(value=0.3, low=0.2, high=0.4, level=0.9, method="profile")
    opened = dataclasses.replace(closed, low=None, note="unbounded below")
    found = [
        SimpleNamespace(interval=closed, values=values, statistic=271 * (values - 0.3) ** 2, limit=2.71),
        SimpleNamespace(interval=opened, values=values, statistic=271 * np.maximum(values - 0.3, 0) ** 2, limit=2.71),
        SimpleNamespace(interval=closed, values=values * 1000, statistic=0 * values, limit=2.71),
    ]
    said = says(
        figures.profile_curves(found, ["alpha", "beta", "A"], num_runs=40), "40 runs", "0.3 [0.2, 0.4]", "the 90% limit"
    )
    assert said.count("| unbounded") == 1 and "0.3 [unbounded, 0.4]" in said


def test_influence_ranks_and_keeps_the_largest(surface):
    found, boot = surface
    panel = robustness(found, targets=[{"N": 1e7, "D": 1e8}], boot=boot)
    said = texts(figures.influence(panel, boot.prediction(1e7, 1e8), most=5))
    expected = [f"without {v.change.removeprefix('without ')}" for v in panel.influential(5)]
    assert [text for text in said if text.startswith("without")] == expected
    assert "prediction at N = 10M, D = 100M" in said
    assert any(text.startswith("20 runs, each left out once; the 5 that move it most; grey: 90% interval") for text in said)
    said = says(figures.influence(panel), "20 runs, each left out once")
    assert "grey" not in said


def test_the_ranking_says_who_is_tied():
    size, data, loss = table()
    says(
        figures.tournament_ranking(tournament({"N": size, "D": data}, loss)),
        "chinchilla",
        "carry forward",
        "runs predicted after",
    )


def test_a_plan_shows_its_runs_and_what_they_buy(surface):
    found, _ = surface
    planned = plan(found, targets=[{"N": 1e7, "D": 1e8}], budget=1e16, max_runs=3)
    says(figures.next_runs(planned), "chinchilla, 20 runs", "budget 1e16 FLOPs", "largest run", "90% intervals", "now")
    size, _, loss = table(8, 1)
    one = fit("power_floor", size, loss, contract=Contract(loss="squared"))
    costs = Candidates.grid(one, cost=lambda n: 1e6 * n)
    says(figures.next_runs(plan(one, targets=[[1e8]], budget=1e14, candidates=costs, max_runs=2)), "power_floor, 8 runs")


def test_real_profiles_have_a_panel_each(surface):
    found, _ = surface
    said = says(figures.profile_curves(profiles(found), found.law.names, num_runs=20), "alpha", "beta", "20 runs")
    assert said.count("[") == 5
