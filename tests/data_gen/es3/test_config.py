"""The configuration of a build: what it takes, what it refuses and in which words."""

import math

import numpy as np
import pytest

from data_gen.es3.config import NEGATIVES, RELEVANCE, SAMPLING, ES3Config, parse_bytes, parse_duration
from unisc import config as plain
from unisc.data.schema import COMPOSITIONS
from unisc.errors import InputError

WHOLE = (
    "click_window",
    "purchase_window",
    "unexposed_per_exposed",
    "strata",
    "history_len",
    "history_max_age",
    "label_half_life",
    "seed",
)
NUMBERS = {"text_threshold": (0.001, 1), "level_confidence": (1e-9, 1), "hard_share": (0, 0.999999999)}
WORDS = {"composition": COMPOSITIONS, "relevance": RELEVANCE, "sampling": SAMPLING, "negatives": NEGATIVES}


def make(**fields) -> ES3Config:
    return ES3Config(**{"composition": "exposed", **fields})


def test_defaults_are_the_papers():
    c = make()
    assert (c.click_window, c.purchase_window, c.relevance) == (86_400, 259_200, "category")
    assert (c.sampling, c.unexposed_per_exposed, c.negatives) == ("uniform", 2, "similar")
    assert (c.history_max_age, c.label_half_life, c.level_confidence) == (0, 0, 1), "no limit, no discount"


@pytest.mark.parametrize("name", WORDS)
def test_words(name):
    assert [getattr(make(**{name: word}), name) for word in WORDS[name]] == list(WORDS[name])
    for wrong in ("Uniform", "", None, 0, ["none"], b"none"):
        with pytest.raises(InputError, match=rf"^{name} .*: unknown; give one of {WORDS[name][0]}, ") as e:
            make(**{name: wrong})
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name):
    least = 1 if name == "strata" else 0
    for value in (least, 2**31 - 1):
        assert getattr(make(**{name: value}), name) == value
    for wrong in (least - 1, 2**31, -(10**30)):
        with pytest.raises(
            InputError, match=rf"^{name} {wrong}: out of range; give a whole number from {least} to 2147483647$"
        ):
            make(**{name: wrong})
    for wrong, kind in ((True, "bool"), (2.0, "float"), (math.nan, "float"), ("2", "str"), (None, "NoneType")):
        with pytest.raises(InputError, match=rf"^{name} {wrong!r}: of type {kind}; give a whole number"):
            make(**{name: wrong})
    with pytest.raises(InputError, match="of type int64"):
        make(**{name: np.int64(2)})


@pytest.mark.parametrize("name", NUMBERS)
def test_shares(name):
    low, high = NUMBERS[name]
    for value in (low, 0.5, high, np.float64(0.25)):
        assert getattr(make(**{name: value}), name) == value
    for wrong in (low - 1e-3, 1.001, -1, 2, math.nan, math.inf, -math.inf):
        with pytest.raises(InputError, match=rf"^{name} {wrong!r}: out of range; give a number"):
            make(**{name: wrong})
    for wrong, kind in ((True, "bool"), ("0.5", "str"), (None, "NoneType"), (0.5j, "complex")):
        with pytest.raises(InputError, match=rf": of type {kind}; give a number"):
            make(**{name: wrong})


def test_a_hard_share_of_one_is_refused_since_the_rest_would_have_no_chance():
    with pytest.raises(InputError, match="hard_share 1: out of range; give a number from 0 to below 1"):
        make(hard_share=1)


def test_a_share_given_as_a_whole_number_is_the_same_configuration():
    one = make(level_confidence=1, text_threshold=1, hard_share=0)
    assert repr(one) == repr(make(level_confidence=1.0, text_threshold=1.0, hard_share=0.0))
    assert plain.fingerprint(one, version=1) == plain.fingerprint(make(text_threshold=1.0, hard_share=0.0), version=1)


@pytest.mark.parametrize("relevance", RELEVANCE)
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_what_follows_from_a_composition(composition, relevance):
    c = make(composition=composition, relevance=relevance)
    assert COMPOSITIONS[c.stage] == composition
    assert c.searchifies == (composition == "searchified")
    assert c.needs_words == (composition == "searchified" or relevance == "text")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("24h", 86_400), ("3d", 259_200), ("7", 7), (" 2 H ", 7200), ("0s", 0)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "1.5h", "24 hours", "1h30m", "1w", "nan", "9" * 5000, "1\n2"])
def test_durations_that_are_none(text):
    with pytest.raises(InputError, match=r"^duration .*: not understood; write it like 90s, 30m, 24h or 3d$"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("256MiB", 2**28), ("4GiB", 2**32), ("4GB", 4 * 10**9), ("512 mb", 512 * 10**6), ("1.5GiB", 3 * 2**29)],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "words"),
    [("4", "not understood"), ("", "not understood"), ("-4GiB", "not understood"), ("4TiB", "not understood"),
     ("9" * 5000 + "GiB", "not understood"), ("infGiB", "not understood"), ("255MiB", "too little"), ("0GiB", "too little")],
)  # fmt: skip
def test_sizes_that_are_none(text, words):
    with pytest.raises(InputError, match=rf"^memory .*: {words}"):
        parse_bytes(text)
