"""The ladder of HHSFT: even steps, and one width that grows alone."""

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.models import hhsft
from unisc.models.ladder import hhsft_ladder


def test_hhsft_spans_two_orders_of_magnitude_in_even_steps(make_spec):
    spec = make_spec()
    sizes = np.array([hhsft.num_params(c, spec).dense for c in hhsft_ladder(embed_dim=8).values()])
    assert len(sizes) >= 6 and sizes[-1] / sizes[0] >= 100
    assert np.all(sizes[1:] / sizes[:-1] > 1.5) and np.all(sizes[1:] / sizes[:-1] < 3.6)


def test_one_width_can_grow_alone():
    grown = {grow: hhsft_ladder(embed_dim=8, grow=grow, base="s") for grow in ("both", "hfa", "gfa")}
    assert grown["hfa"]["s"] == grown["gfa"]["s"] == grown["both"]["s"]
    assert {c.gfa_dim for c in grown["hfa"].values()} == {grown["both"]["s"].gfa_dim}
    assert {c.hfa_dim for c in grown["gfa"].values()} == {grown["both"]["s"].hfa_dim}
    with pytest.raises(InputError, match="base: unknown size 'huge'; give one of xxs"):
        hhsft_ladder(embed_dim=8, base="huge")
