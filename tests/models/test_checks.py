"""A wrong configuration of any ranker is one line that names the field, its value and the remedy."""

import dataclasses
import math
import typing

import pytest

from unisc.errors import InputError
from unisc.models import zoo

WRONG = {
    int: [(value, f"{value!r} is not a whole number of at least ") for value in (-1, True, 2.5, None)],
    float: [(value, f"{value!r} is not a number of at least 0") for value in (-0.1, math.nan, math.inf, None)],
    bool: [(1, "1 is not true or false")],
    tuple: [((), "empty; give at least one width"), ((8, 0), "0 is not a whole number of at least 1"), ((8.0,), "8.0 is not")],
    typing.Literal: [("other", "unknown 'other'; give one of "), (None, "unknown None; give one of ")],
}
"""By the type of a field: wrong values, and what is said of them."""


def check(config, wrong, message):
    with pytest.raises(InputError) as caught:
        dataclasses.replace(config, **wrong)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("ranker", zoo.RANKERS)
def test_every_field_is_checked(ranker):
    config = zoo.config_of(ranker, "s", embed_dim=4)
    for field in dataclasses.fields(config):
        for value, message in WRONG.get(typing.get_origin(field.type) or field.type, ()):
            check(config, {field.name: value}, f"{field.name}: {message}")
        assert field.type is str or WRONG[typing.get_origin(field.type) or field.type]


@pytest.mark.parametrize(
    ("ranker", "wrong", "message"),
    [
        ("dcn", {"num_experts": 0}, "num_experts: 0 is not a whole number of at least 1; give one"),
        ("dcn", {"kind": "vector"}, "kind: unknown 'vector'; give one of full, low_rank, mixture"),
        ("dcn", {"structure": "deep"}, "structure: unknown 'deep'; give one of stacked, parallel"),
        ("dlrm", {"interaction": "cross"}, "interaction: unknown 'cross'; give one of none, dot"),
        ("hhsft", {"hfa_dim": 5}, "hfa_dim: 5 does not divide into num_heads=2; give a multiple"),
        ("hhsft", {"gfa_dim": 9}, "gfa_dim: 9 does not divide into num_gfa_heads=2; give a multiple"),
        ("hhsft", {"isolation": "all"}, "isolation: unknown 'all'; give one of none, dref, dapga, both"),
        ("hhsft", {"context": "own"}, "context: unknown 'own'; give one of joint, shared"),
        ("hiformer", {"num_heads": 3}, "dim: 8 does not divide into num_heads=3; give a multiple"),
        ("hiformer", {"projection": "full"}, "projection: unknown 'full'; give one of composite, heterogeneous"),
        ("hstu", {"context": "both"}, "context: unknown 'both'; give one of joint, shared"),
        ("onetrans", {"dim": 9}, "dim: 9 does not divide into num_heads=2; give a multiple"),
        ("onetrans", {"num_request_tokens": -1}, "num_request_tokens: -1 is not a whole number of at least 0"),
        ("onetrans", {"num_request_tokens": 4}, "num_request_tokens: 4 leaves a candidate none of num_tokens=4"),
        ("onetrans", {"context": "both"}, "context: unknown 'both'; give one of joint, shared"),
        ("rankmixer", {"dim": 9}, "dim: 9 does not divide into num_tokens=8; give a multiple"),
        ("rankmixer", {"num_experts": 5}, "ffn_dim: 48 does not divide into num_experts=5; give a multiple"),
        ("rankmixer", {"num_experts": 2, "active_experts": 3}, "active_experts: 3 is more than num_experts=2; give"),
        ("rankmixer", {"num_tokens": 1}, "num_tokens: 1 is not a whole number of at least 2"),
        ("tokenmixer_large", {"dim": 9}, "dim: 9 does not divide into num_tokens=6; give a multiple"),
        ("tokenmixer_large", {"num_experts": 5, "active_experts": 2}, "ffn_dim: 18 does not divide into num_experts=5"),
        ("tokenmixer_large", {"num_experts": 3, "active_experts": 4}, "active_experts: 4 is more than num_experts=3"),
        ("tokenmixer_large", {"num_experts": 3}, "active_experts: 1 is not a whole number of at least 2"),
        ("tokenmixer_large", {"num_tokens": 2}, "num_tokens: 2 is not a whole number of at least 3"),
        ("transformer", {"num_heads": 3}, "dim: 32 does not divide into num_heads=3; give a multiple"),
        ("transformer", {"context": "both"}, "context: unknown 'both'; give one of joint, shared"),
    ],
)
def test_what_fits_no_other_field_is_named(ranker, wrong, message):
    check(zoo.config_of(ranker, "s", embed_dim=4), wrong, message)
