"""Refits of the panel are those one would make by hand; influence finds the planted culprit; published moves are reproduced."""

import json

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.scaling import Contract, bootstrap, fit
from unisc.scaling.robustness import Recount, robustness

SQUARED = Contract(loss="squared")
SIZE, DATA = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 4)))
TARGET = {"N": 1e10, "D": 1e12}
CULPRIT = 4  # The corner of the largest model and the least data.


def truth(size, data):
    return 1.7 + 0.6 * (size / 1e8) ** -0.35 + 0.6 * (data / 3e9) ** -0.4


def losses(seed=0, spoil=0.0):
    loss = truth(SIZE, DATA) * np.exp(2e-3 * np.random.default_rng(seed).standard_normal(len(SIZE)))
    loss[CULPRIT] *= 1 + spoil
    return loss


@pytest.fixture(scope="module")
def panel():
    found = fit("chinchilla", SIZE, DATA, losses(spoil=0.03), contract=SQUARED)
    days = np.arange(len(SIZE)) % 3
    return robustness(found, targets=[TARGET, (1e9, 1e11)], groups={"day": days}, max_trimmed=3)


def by_hand(keep, contract=SQUARED):
    return fit("chinchilla", SIZE[keep], DATA[keep], losses(spoil=0.03)[keep], contract=contract)


def test_leaving_out_is_the_fit_of_the_rest(panel):
    every = np.arange(len(SIZE))
    loss = losses(spoil=0.03)
    expected = {
        f"run 7 (N={SIZE[7]:.4g}, D={DATA[7]:.4g})": every != 7,
        "size 1e+09": SIZE < 9e8,
        "data 1e+08": ~(DATA < 2e8),
        f"budget {SIZE[0] * DATA[0]:.4g}": 2 * SIZE[0] * DATA[0] < SIZE * DATA,
        "day 1": every % 3 != 1,
        "2 highest losses": loss < np.sort(loss)[-2],
    }
    for change, keep in expected.items():
        (found,) = [variant for variant in panel.variants if variant.change == change]
        hand = by_hand(keep)
        assert found.num_runs == keep.sum()
        assert found.objective == pytest.approx(hand.objective, rel=1e-6)
        assert found.predictions[0] == pytest.approx(hand.predict(1e10, 1e12)[0], rel=1e-6)
        assert found.derived["a"] == pytest.approx(hand.params["beta"] / (hand.params["alpha"] + hand.params["beta"]), rel=1e-4)
    assert len(panel.of("run")) == 20 and len(panel.of("size")) == 5 and len(panel.of("data")) == 4
    assert len(panel.of("day")) == 3 and len(panel.of("trim")) == 4
    assert panel.of("trim")[0].shifts == pytest.approx([0, 0], abs=1e-6)


def test_the_planted_culprit_is_the_most_influential_and_its_sign_is_right(panel):
    first, second = panel.influential(2)
    assert first.run == CULPRIT
    hand = by_hand(np.arange(len(SIZE)) != CULPRIT).predict(1e10, 1e12)[0] - by_hand(slice(None)).predict(1e10, 1e12)[0]
    assert first.shifts[0] * panel.widths[0] == pytest.approx(hand, rel=1e-3)
    assert abs(first.largest_shift) > 2 * abs(second.largest_shift)


def test_other_objectives_are_the_fits_under_those_contracts(panel):
    changes = [variant.change for variant in panel.of("objective")]
    assert "squared, log space" not in changes  # The fit itself.
    assert changes[:2] == ["squared, loss space", "huber 0.0001, loss space"] and "absolute, log space" in changes
    (found,) = [v for v in panel.of("objective") if v.change == "huber 0.01, log space"]
    hand = by_hand(slice(None), Contract(huber_delta=1e-2))
    assert found.predictions[0] == pytest.approx(hand.predict(1e10, 1e12)[0], rel=1e-6)
    kinds = panel.ranges()
    low, high = kinds["objective"]["prediction"]
    assert low <= panel.base.predictions[0] <= high and set(kinds["run"]) == {"E", "A", "B", "alpha", "beta", "a", "prediction"}


def test_standard_errors_and_fixed_parameters_are_kept():
    loss = losses()
    se = np.where(np.arange(len(loss)) % 2, 1e-3, 5e-3) * loss
    found = fit("chinchilla", SIZE, DATA, loss, contract=SQUARED, se=se, fixed={"E": 1.7})
    made = robustness(found, targets=[TARGET], deltas=[1e-2], max_trimmed=0)
    assert all(variant.parameters["E"] == pytest.approx(1.7) for variant in made.variants)
    (other,) = [v for v in made.of("objective") if v.change == "squared, loss space"]
    plain = Contract(space="loss", loss="squared")
    hand = fit("chinchilla", SIZE, DATA, loss, contract=plain, se=se, fixed={"E": 1.7})
    assert other.parameters == pytest.approx(hand.params, rel=1e-4)


def test_parameters_counted_otherwise():
    found = fit("chinchilla", SIZE, DATA, losses(), contract=SQUARED)
    total = SIZE + 5e6
    recounts = {
        "num_params_total": Recount(axis="N", column=total, at_targets=[1e10 + 5e6]),
        "blind": Recount(axis="N", column=total),
    }
    made = robustness(found, targets=[TARGET], recounts=recounts, deltas=[], max_trimmed=0)
    counted, blind = made.of("count")
    hand = fit("chinchilla", total, DATA, losses(), contract=SQUARED)
    assert counted.parameters == pytest.approx(hand.params, rel=1e-4)
    assert counted.predictions[0] == pytest.approx(hand.predict(1e10 + 5e6, 1e12)[0], rel=1e-6)
    assert counted.parameters["alpha"] > made.base.parameters["alpha"]  # Embeddings steepen the law in N.
    assert np.isnan(blind.predictions).all() and blind.to_json()["predictions"] == [None]


def test_a_gain_and_a_law_of_one_axis_say_what_cannot_be_refitted():
    size = np.geomspace(1e4, 1e8, 7)
    contract = Contract(space="loss", loss="squared", metric="gain", better="higher")
    found = fit("power_limit", size, 0.02 - 2.0 * size**-0.5 + 1e-4 * np.sin(size), contract=contract)
    made = robustness(found, targets=[[1e9]])
    assert "has no logarithm" in made.skipped["squared, log space"]
    assert made.skipped["size"].startswith("every run has its own")
    assert made.skipped["5 highest losses"] == "2 runs would be left for 3 parameters"
    assert not made.of("data") and len(made.of("run")) == 7


def test_widths_are_those_of_a_bootstrap_where_one_is_given():
    found = fit("chinchilla", SIZE, DATA, losses(), contract=SQUARED)
    boot = bootstrap(found, draws=100)
    made = robustness(found, targets=[TARGET], boot=boot, deltas=[], max_trimmed=0)
    low, high = boot.band(1e10, 1e12)
    assert made.widths == pytest.approx(high - low)


def test_the_panel_is_json_with_its_documented_keys(panel):
    written = json.loads(json.dumps(panel.to_json(), allow_nan=False))
    assert set(written) == {"targets", "widths", "base", "variants", "influential", "ranges", "skipped"}
    keys = {"kind", "change", "num_runs", "objective", "run", "parameters", "derived", "predictions", "shifts"}
    assert set(written["variants"][0]) == keys
    assert written["influential"][0]["run"] == CULPRIT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": [(1e9,)]}, "has 1 sizes; give N, D"),
        ({"groups": {"seed": [1, 2]}}, "group 'seed' has shape"),
        ({"recounts": {"total": Recount(axis="V", column=SIZE)}}, "no axis 'V'; choose one of N, D"),
        ({"recounts": {"total": Recount(axis="N", column=SIZE[:3])}}, "total has shape"),
    ],
)
def test_bad_input_is_one_line(options, message):
    found = fit("chinchilla", SIZE, DATA, losses(), contract=SQUARED, num_starts=2)
    with pytest.raises(InputError, match=message) as raised:
        robustness(found, **({"targets": [TARGET], "deltas": [], "max_trimmed": 0} | options))
    assert "\n" not in str(raised.value)


@pytest.mark.real_data
def test_five_outliers_move_the_published_exponents_as_published(epoch):
    made = robustness(fit("chinchilla", *epoch[:3]), targets=[(70e9, 1.4e12)], deltas=[])
    trims = {variant.change: variant for variant in made.of("trim")}
    for change, beta, a in (("0 highest losses", 0.453, 0.565), ("5 highest losses", 0.367, 0.514)):
        assert trims[change].parameters["beta"] == pytest.approx(beta, abs=6e-4)
        assert trims[change].derived["a"] == pytest.approx(a, abs=6e-4)
    assert trims["5 highest losses"].objective == pytest.approx(0.0010182740178, abs=1e-10)
    assert {0, 1, 2} <= {variant.run for variant in made.influential(4)}  # Among the five highest losses.


@pytest.mark.real_data
def test_the_objective_alone_moves_beta_as_published(epoch):
    keep = (epoch[2] < np.sort(epoch[2])[-5]) & (epoch[3] < 1e21)
    found = fit("chinchilla", *(column[keep] for column in epoch[:3]))
    made = {v.change: v.parameters["beta"] for v in robustness(found, targets=[(70e9, 1.4e12)], max_trimmed=0).of("objective")}
    for change, beta in (("squared, loss space", 0.4587), ("squared, log space", 0.4430), ("huber 0.001, loss space", 0.4058)):
        assert made[change] == pytest.approx(beta, abs=1e-4)
