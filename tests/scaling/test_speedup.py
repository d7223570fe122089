"""A recipe that needs exactly half the compute has a speedup of 2, and a loss under a floor is never reached."""

import json

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.scaling import Contract
from unisc.scaling.optimal import Surface
from unisc.scaling.speedup import Recipe, effective_speedup, equal_loss

E, A, B, ALPHA, BETA = 1.7, 400.0, 600.0, 0.34, 0.30
SIZE, DATA = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 5), np.geomspace(2e8, 2e11, 5)))


def natural(gain=1.0, floor=E):
    """A law whose compute at every loss is 1/gain: sizes and data both count sqrt(gain) fold."""
    return np.array([floor, A * gain ** (-ALPHA / 2), B * gain ** (-BETA / 2), ALPHA, BETA])


def exact(gain=1.0, floor=E):
    law = natural(gain, floor)
    return Surface(law, np.tile(law, (10, 1)), 6.0, "planted")


def recipe(name, gain=1.0, floor=E, noise=0.0, seed=0, loss="squared", **kwargs):
    law = natural(gain, floor)
    losses = law[0] + law[1] * SIZE**-ALPHA + law[2] * DATA**-BETA
    losses = losses * np.exp(noise * np.random.default_rng(seed).standard_normal(len(losses)))
    return Recipe.of(name, SIZE, DATA, losses, contract=Contract(loss=loss), **{"draws": 200, "seed": seed} | kwargs)


@pytest.mark.parametrize("path", ["optimal", 20.0])
@pytest.mark.parametrize("compute", [1e18, 1e22, 1e26])
def test_half_the_compute_is_a_speedup_of_two(path, compute):
    found = equal_loss(exact(), exact(gain=2.0), compute, path=path)
    assert found.speedup.value == pytest.approx(2.0, rel=1e-6)
    assert found.needed.value == pytest.approx(compute / 2, rel=1e-6)
    assert 6 * found.size * found.data == pytest.approx(compute / 2, rel=1e-6)
    assert found.speedup.low == pytest.approx(2.0, rel=1e-6) and found.share_never == 0
    back = equal_loss(exact(gain=2.0), exact(), found.needed.value, path=path)
    assert back.speedup.value == pytest.approx(0.5, rel=1e-6)
    assert equal_loss(exact(), exact(), compute, path=path).speedup.value == pytest.approx(1.0, rel=1e-6)


def test_a_loss_under_the_floor_is_never_reached():
    found = equal_loss(exact(), exact(floor=2.0), 1e25)
    assert np.isinf(found.needed.value) and found.speedup.value == 0 and found.share_never == 1
    assert "never" in found.verdict and "its floor is 2" in found.verdict
    assert found.needed.high is None and "infinite" in found.needed.note
    out = found.to_json()
    assert json.loads(json.dumps(out, allow_nan=False))["needed"]["value"] is None
    assert found.size is None


def test_some_draws_that_never_reach_the_loss_open_the_interval():
    floors = np.linspace(1.6, 2.0, 50)
    other = Surface(natural(), np.column_stack([floors, np.tile(natural()[1:], (50, 1))]), 6.0, "planted")
    found = equal_loss(exact(), other, 1e25)
    assert np.isfinite(found.needed.value) and found.needed.high is None and found.needed.low is not None
    assert 0 < found.share_never < 1 and "of the draws never" in found.verdict
    assert found.speedup.low == 0


@pytest.mark.parametrize("floor", ["free", "shared", E])
def test_speedup_from_fitted_recipes(floor):
    found = effective_speedup(
        recipe("old", noise=3e-3, seed=1), recipe("new", gain=2.0, noise=3e-3, seed=2), [1e20, 1e23], floor=floor
    )
    for point in found.points:
        assert point.speedup.low < point.speedup.value < point.speedup.high
        assert point.speedup.low - 0.1 < 2.0 < point.speedup.high + 0.1
    assert {"free": "free", "shared": "fitted to old", E: "pinned"}[floor] in found.floor
    json.dumps(found.to_json(), allow_nan=False)


def test_a_pinned_floor_holds_speedups_far_out_together():
    old, new = recipe("old", noise=3e-3, seed=1), recipe("new", gain=2.0, noise=3e-3, seed=2)
    widths = {}
    for floor in ("free", "shared"):
        far = effective_speedup(old, new, 1e25, floor=floor).points[0].speedup
        widths[floor] = far.high - far.low
    assert widths["shared"] < 0.6 * widths["free"]


@pytest.mark.parametrize("loss", ["squared", "huber", "absolute"])
def test_pinning_at_the_free_floor_is_the_free_fit(loss):
    found = recipe("r", noise=3e-3, loss=loss, draws=5)
    pinned = found.with_floor(found.fitted.params["E"]).natural
    assert pinned == pytest.approx(found.surface.natural, rel=1e-4 if loss == "absolute" else 1e-5)


def test_a_pinned_refit_recovers_the_planted_law():
    assert recipe("r").with_floor(E).natural == pytest.approx(natural(), rel=1e-4)


def test_bad_requests_are_one_line():
    old, new = recipe("old"), recipe("new", gain=2.0)
    with pytest.raises(InputError, match="not from 0 to the smallest loss"):
        effective_speedup(old, new, 1e22, floor=5.0)
    with pytest.raises(InputError, match="'free', 'shared' or a number"):
        effective_speedup(old, new, 1e22, floor="tied")
    with pytest.raises(InputError, match="not from 0 to"):
        old.with_floor(-1.0)
    with pytest.raises(InputError, match="positive number of FLOPs"):
        effective_speedup(old, new, -1.0)
    with pytest.raises(InputError, match="path is 'straight'"):
        equal_loss(exact(), exact(), 1e22, path="straight")
    with pytest.raises(InputError, match="minimise different things"):
        effective_speedup(old, recipe("other", loss="huber"), 1e22)
