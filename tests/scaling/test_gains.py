"""Gains carry the standard error of a pair, reach their planted limit, and entropy is relative to the base rate."""

import json

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.metrics import ne
from unisc.scaling import fit
from unisc.scaling.gains import normalised_entropy, paired_gains

SIZES = np.geomspace(1e4, 1e8, 9)


def test_a_planted_gain_is_fitted_better_from_pairs_than_its_metrics_noise_allows():
    rng = np.random.default_rng(0)
    size = SIZES.repeat(3)
    shared = rng.normal(0, 0.01, len(size))  # A seed and its test set move both sides alike.
    baseline = 0.70 + shared
    recipe = 0.70 + 0.02 - 0.2 * size**-0.3 + shared + rng.normal(0, 1e-4, len(size))
    found = paired_gains(baseline, recipe, better="higher", metric="auc_roc", cells=size)
    assert found.num_pairs.tolist() == [3] * 9 and size[found.rows].tolist() == SIZES.tolist()
    assert found.se == pytest.approx(1e-4 / np.sqrt(3), rel=0.4)
    law = fit("power_limit", size[found.rows], found.value, se=found.se, contract=found.contract)
    assert -law.params["E"] == pytest.approx(0.02, abs=3e-4)
    assert law.predict(1e9)[0] == pytest.approx(0.02 - 0.2 * 1e9**-0.3, abs=3e-4)
    straight = fit("log_linear", size[found.rows], found.value, contract=found.contract)
    assert straight.params["c1"] < 0  # As a loss: the gain rises with size.


def test_standard_errors_of_a_gain_are_those_of_a_simulation():
    rng = np.random.default_rng(1)
    noise = rng.multivariate_normal([0, 0], [[4e-6, 3e-6], [3e-6, 9e-6]], size=200_000).T
    for relative in (False, True):
        made = paired_gains(0.5 + noise[0], 0.4 + noise[1], better="lower", metric="ne", relative=relative)
        said = paired_gains(
            [0.5], [0.4], better="lower", metric="ne", relative=relative, baseline_se=[2e-3], recipe_se=[3e-3], correlation=0.5
        )
        assert said.value[0] == pytest.approx(0.2 if relative else 0.1)
        assert said.se[0] == pytest.approx(made.value.std(), rel=0.01)
    assert json.loads(json.dumps(said.to_json()))["contract"]["metric"] == "relative gain in ne"


def test_normalised_entropy_agrees_with_the_metric_and_forgives_the_base_rate():
    rng = np.random.default_rng(2)
    labels = (rng.random(500) < 0.2).astype(float)
    logits = rng.normal(-1.4, 1, 500)
    loss = np.mean(np.logaddexp(0, logits) - labels * logits)
    assert normalised_entropy(loss, labels.mean()) == pytest.approx(ne(labels, logits))
    rates = np.array([0.01, 0.5])
    entropy = -(rates * np.log(rates) + (1 - rates) * np.log(1 - rates))
    assert normalised_entropy(entropy, rates) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_gains([1.0, 2.0], [1.0], better="lower", metric="ne"), "recipe has shape"),
        (lambda: paired_gains([1.0], [1.0], better="more", metric="ne"), "choose lower or higher"),
        (lambda: paired_gains([0.0], [1.0], better="lower", metric="ne", relative=True), "baseline is 0 in row 0"),
        (lambda: paired_gains([1.0], [1.0], better="lower", metric="ne", recipe_se=[0.1]), "one side alone"),
        (lambda: paired_gains([1.0], [1.0], better="lower", metric="ne", cells=["a"]), "no cell has two pairs"),
        (lambda: paired_gains([1.0], [1.0], better="lower", metric="ne", cells=["a", "b"]), "one label a pair"),
        (lambda: normalised_entropy([0.3], 1.2), "base_rate is 1.2"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
