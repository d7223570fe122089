"""A data law read backwards: exact on a known law, and its interval holds the truth about as often as it says."""

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.scaling import Contract, bootstrap, fit
from unisc.scaling.equivalent import equivalent_examples

E, A, ALPHA = 0.31, 40.0, 0.5
SIZES = np.repeat(np.geomspace(2e4, 3.2e5, 6), 3)


def law(examples):
    return E + A * np.asarray(examples) ** -ALPHA


def fitted(loss, draws=200):
    return bootstrap(fit("power_floor", SIZES, loss, contract=Contract()), kind="residual", draws=draws)


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0, 1.5])
def test_a_known_law_is_inverted(share):
    noise = 1e-7 * np.random.default_rng(0).standard_normal(len(SIZES))
    change = float(law(share * SIZES[-1]) - law(SIZES[-1]))
    found = equivalent_examples(fitted(law(SIZES) + noise), SIZES[-1], change)
    assert found.value == pytest.approx(share, rel=1e-3)
    assert found.low is not None and found.high is not None
    assert found.low <= found.value <= found.high


def test_the_interval_covers_the_truth():
    rng, share = np.random.default_rng(1), 0.7
    change, error = float(law(share * SIZES[-1]) - law(SIZES[-1])), 5e-4
    held = 0
    for _ in range(60):
        loss = law(SIZES) * np.exp(2e-3 * rng.standard_normal(len(SIZES)))
        seen = change + error * rng.standard_normal()
        held += equivalent_examples(fitted(loss), SIZES[-1], seen, seen + error * rng.standard_normal(200)).holds(share)
    # Of 60 at 90 %, below 46 once in a thousand times.
    assert held >= 46


def test_draws_of_the_change_widen_the_interval():
    boot, change = fitted(law(SIZES) * np.exp(1e-3 * np.random.default_rng(2).standard_normal(len(SIZES)))), 2e-3
    alone = equivalent_examples(boot, SIZES[-1], change)
    both = equivalent_examples(boot, SIZES[-1], change, change + 2e-3 * np.random.default_rng(3).standard_normal(200))
    assert both.value == alone.value
    assert both.high - both.low > alone.high - alone.low


def test_a_gain_past_the_floor_is_said_to_be_out_of_reach():
    boot = fitted(law(SIZES) * np.exp(1e-4 * np.random.default_rng(4).standard_normal(len(SIZES))))
    found = equivalent_examples(boot, SIZES[-1], -0.2)
    assert found.value == np.inf
    assert found.high is None
    assert found.note.startswith("unbounded above: in 100% of the draws")


def test_what_cannot_be_inverted_is_refused():
    boot = fitted(law(SIZES) * np.exp(1e-3 * np.random.default_rng(5).standard_normal(len(SIZES))))
    with pytest.raises(InputError, match="examples are 0; give a positive number"):
        equivalent_examples(boot, 0, 1e-3)
    other = bootstrap(fit("log_linear", SIZES, law(SIZES) + 1e-3 * np.sin(SIZES)), draws=50)
    with pytest.raises(InputError, match=r"law 'log_linear' cannot be read backwards in examples; fit one of power"):
        equivalent_examples(other, 1e5, 1e-3)
