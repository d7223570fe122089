"""Three approaches agree on a planted surface, show where they do not, and the parabola's bias is the published one."""

import json

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.scaling import Contract, bootstrap, fit
from unisc.scaling.compute_optimal import compute_optimal, valley_bias
from unisc.scaling.isoflop import isoflop
from unisc.scaling.optimal import Surface, compute_to_reach, ln_optimal_size, loss_along
from unisc.scaling.runs import Runs
from unisc.scaling.valley import Parabola

TRUTH = np.array([1.69, 406.4, 410.7, 0.34, 0.28])
SQUARED = Contract(loss="squared")


def grid(width=8.0, drift=1.0, low=1e18, high=1e21, budgets=5, points=15, noise=0.0, seed=0):
    """Sizes within a factor `width` of a centre that leaves the optimum by a factor `drift` at the largest budget."""
    compute = np.geomspace(low, high, budgets)
    centre = np.exp(ln_optimal_size(TRUTH, compute, 6.0)) * drift ** -np.linspace(0, 1, budgets)
    size = (centre[:, None] * np.geomspace(1 / width, width, points)).ravel()
    compute = compute.repeat(points)
    loss = TRUTH[0] + TRUTH[1] * size ** -TRUTH[3] + TRUTH[2] * (compute / (6 * size)) ** -TRUTH[4]
    return Runs.of(
        size=size, compute=compute, loss=loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))
    )


@pytest.mark.parametrize(
    ("width", "low", "high", "target", "published"),
    [
        (2, 1e18, 1e22, 3.8e25, 0.128),  # The paper's headline.
        (2, 1e17, 1e21, 1e24, 0.11614253519),  # The rest from the table of its compounding errors.
        (4, 1e17, 1e21, 1e24, 0.09831637144),
        (8, 1e17, 1e21, 1e24, 0.06939058915),
        (16, 1e17, 1e21, 1e24, 0.03047597649),
    ],
)
def test_parabola_bias_under_drift_is_the_published_one(width, low, high, target, published):
    # arXiv 2603.22339: five budgets, grids drifting to 3x off-centre, vertices taken wherever they fall.
    runs = grid(width=width, drift=3.0, low=low, high=high)
    valleys = isoflop(runs, parabola=Parabola(points=None, outside=True), draws=0)
    bias = {row.reading: row for row in valley_bias(TRUTH, valleys, 6.0, [target])}
    tolerance = 1e-3 if published == 0.128 else 1e-9
    assert bias["parabola"].data[0] == pytest.approx(published, abs=tolerance)
    assert bias["parabola"].size_exponent < -0.001


def test_the_akima_reading_is_less_biased_than_the_parabola_over_a_drifting_grid():
    valleys = isoflop(grid(width=8, drift=3.0), draws=0)
    bias = {row.reading: abs(row.data[0]) for row in valley_bias(TRUTH, valleys, 6.0, [1e24])}
    wide = isoflop(grid(width=8, drift=3.0), parabola=Parabola(points=None), draws=0)
    whole = {row.reading: abs(row.data[0]) for row in valley_bias(TRUTH, wide, 6.0, [1e24])}
    assert bias["akima"] < 0.02 < 0.05 < whole["parabola"]


def test_closed_forms_are_the_minimum_and_invert():
    rng = np.random.default_rng(0)
    natural = np.column_stack(
        [rng.uniform(0, 2, 20), rng.uniform(10, 1e3, 20), rng.uniform(10, 1e3, 20), rng.uniform(0.1, 0.8, (20, 2))]
    )
    compute = 1e21
    best = loss_along(natural, compute, 6.0)
    for factor in (0.9, 1.1):
        size = np.exp(ln_optimal_size(natural, compute, 6.0)) * factor
        data = compute / (6 * size)
        other = natural[:, 0] + natural[:, 1] * size ** -natural[:, 3] + natural[:, 2] * data ** -natural[:, 4]
        assert (other > best).all()
    for path in ("optimal", 20.0, 0.5):
        loss = loss_along(natural, compute, 6.0, path)
        assert compute_to_reach(natural, loss, 6.0, path) == pytest.approx(np.full(20, compute), rel=1e-6)
    assert np.isinf(compute_to_reach(natural, natural[:, 0], 6.0)).all()
    assert np.isinf(compute_to_reach(natural, natural[:, 0] - 0.1, 6.0, 20.0)).all()


def test_all_approaches_agree_on_a_planted_surface():
    found = compute_optimal(grid(width=8, points=13, noise=2e-3), targets=[1e21, 1e23], draws=300, contract=SQUARED)
    assert list(found.approaches) == ["envelope", "isoflop_akima", "isoflop_parabola", "parametric"] and not found.failed
    for name, approach in found.approaches.items():
        assert approach.size_exponent.value == pytest.approx(0.28 / 0.62, abs=0.05 if name == "envelope" else 0.02)
        assert approach.size_exponent.value + approach.data_exponent.value == pytest.approx(1)
        for target in approach.targets:
            assert target.size.low <= target.size.value <= target.size.high
            assert 6 * target.size.value * target.data.value == pytest.approx(target.compute)
    near, far = found.disagreement
    assert 1 <= near.size_ratio < far.size_ratio < 2
    assert far.smallest != far.largest and near.intervals_overlap
    assert found.approaches["parametric"].targets[1].loss.holds(float(loss_along(TRUTH, 1e23, 6.0)))
    assert found.flops_counted == "6 x size x data"


def test_disagreement_beyond_the_intervals_is_said():
    # Every run away from the bottom of its valley is under-tuned: the surface believes them, the valleys do not look.
    runs = grid(points=13, noise=5e-4)
    best = np.exp(ln_optimal_size(TRUTH, runs.compute, 6.0))
    away = np.maximum(np.log(runs.size / best), 0)
    worse = Runs.of(size=runs.size, compute=runs.compute, loss=runs.loss * np.exp(0.05 * away**2))
    row = compute_optimal(worse, targets=[1e23], draws=200, contract=SQUARED).disagreement[0]
    assert row.size_ratio > 1.3 and row.intervals_overlap is False
    assert row.smallest == "parametric"
    assert compute_optimal(worse, targets=[1e23], draws=0, contract=SQUARED).disagreement[0].intervals_overlap is None


def test_the_result_is_json_with_its_documented_keys():
    out = compute_optimal(grid(points=9, noise=2e-3), draws=50, contract=SQUARED).to_json()
    assert set(out) == {"flops_counted", "approaches", "failed", "disagreement", "bias", "valleys", "fit", "notes"}
    assert json.loads(json.dumps(out, allow_nan=False)) == out
    target = out["approaches"]["isoflop_akima"]["targets"][1]
    assert target["compute"] == pytest.approx(1e22) and target["loss"] is None
    assert {row["reading"] for row in out["bias"]} == {"akima", "parabola"}


def test_an_approach_that_cannot_be_used_is_named_with_its_reason():
    # A factorial of sizes and data has no three sizes at one budget: approach 2 has nothing to read.
    size, data = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1.3e10, 7), np.geomspace(2e8, 9e11, 7)))
    loss = TRUTH[0] + TRUTH[1] * size ** -TRUTH[3] + TRUTH[2] * data ** -TRUTH[4]
    found = compute_optimal(Runs.of(size=size, data=data, loss=loss), draws=0, contract=SQUARED)
    assert "3 sizes" in found.failed["isoflop_akima"] and "parametric" in found.approaches
    assert found.approaches["parametric"].size_exponent.value == pytest.approx(0.28 / 0.62, abs=1e-3)
    assert not found.approaches["parametric"].size_exponent.bounded  # No draws, no interval.
    assert found.bias == ()


def test_a_table_for_no_approach_is_one_line():
    with pytest.raises(InputError) as caught:
        compute_optimal(Runs.of(size=[1e6, 1e7], data=[1e8, 1e8], loss=[3, 2]))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="targets must be positive"):
        compute_optimal(grid(), targets=[-1.0])


def test_compute_that_is_no_constant_times_size_and_data_is_noted():
    runs = grid(points=9)
    other = Runs.of(size=runs.size, data=runs.data, compute=runs.compute * runs.size**0.05, loss=runs.loss)
    found = compute_optimal(other, draws=0, contract=SQUARED, tolerance=0.3)
    assert any("-fold" in note for note in found.notes)


def test_a_surface_needs_a_chinchilla_law_and_positive_compute():
    runs = grid(points=9, noise=1e-3)
    fitted = fit("chinchilla", runs.size, runs.data, runs.loss, contract=SQUARED)
    point = Surface.of(fitted, bootstrap(fitted, draws=50)).at(1e22)
    assert point.to_json()["size"]["low"] < point.size.value < point.to_json()["size"]["high"]
    with pytest.raises(InputError, match="positive number of FLOPs"):
        Surface.of(fitted).at(0.0)
    with pytest.raises(InputError, match="'chinchilla'"):
        Surface.of(fit("power_floor", runs.size, runs.loss))
