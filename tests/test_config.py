import dataclasses
import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisc import config as c
from unisc.errors import InputError


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Mlp:
    hidden_dims: tuple[int, ...]
    dropout: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    num_layers: int
    embed_dim: int

    def __post_init__(self) -> None:
        if self.num_layers > self.embed_dim:
            raise ValueError(f"num_layers {self.num_layers} exceeds embed_dim {self.embed_dim}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    model: Mlp | Tower
    head: Mlp | None
    kind: Literal["exposed", "unexposed", 3]
    colour: Colour
    weights: Mapping[str, float]
    window: tuple[int, str]
    learning_rate: float
    batch_size: int
    num_steps: int
    shuffle: bool
    label: str | None
    limit: int | None = None


finite = st.floats(allow_nan=False, allow_infinity=False)
mlps = st.builds(Mlp, hidden_dims=st.lists(st.integers()).map(tuple), dropout=finite)
towers = st.builds(Tower, num_layers=st.integers(0, 8), embed_dim=st.integers(8, 64))
configs = st.builds(
    Config,
    model=mlps | towers,
    head=st.none() | mlps,
    kind=st.sampled_from(["exposed", "unexposed", 3]),
    colour=st.sampled_from(Colour),
    weights=st.dictionaries(st.text(), finite, max_size=4),
    window=st.tuples(st.integers(), st.text()),
    learning_rate=finite,
    batch_size=st.integers(),
    num_steps=st.integers(),
    shuffle=st.booleans(),
    label=st.none() | st.text(),
    limit=st.none() | st.integers(),
)

EXAMPLE = Config(
    model=Mlp(hidden_dims=(8, 4), dropout=0.1),
    head=None,
    kind="exposed",
    colour=Colour.RED,
    weights={"click": 1.0, "cart": 0.5},
    window=(7, "day"),
    learning_rate=3e-4,
    batch_size=64,
    num_steps=100,
    shuffle=True,
    label="é",
)


@given(configs)
@settings(max_examples=150, deadline=None)
def test_a_configuration_survives_the_round_trip(config: Config):
    text = c.to_json(config)
    assert c.from_json(Config, text) == config
    assert c.to_json(c.from_json(Config, text)) == text


@given(configs, configs)
@settings(max_examples=150, deadline=None)
def test_fingerprints_are_equal_exactly_when_configurations_are(a: Config, b: Config):
    assert (c.fingerprint(a, version=1) == c.fingerprint(b, version=1)) == (a == b)
    assert (c.diff(a, b) == {}) == (a == b)


@given(configs, configs, st.sampled_from([f.name for f in dataclasses.fields(Config)]))
@settings(max_examples=150, deadline=None)
def test_the_fingerprint_changes_if_and_only_if_a_field_changes(a: Config, b: Config, field: str):
    changed = dataclasses.replace(a, **{field: getattr(b, field)})
    assert (c.fingerprint(a, version=1) != c.fingerprint(changed, version=1)) == (a != changed)
    assert all(path.startswith(field) for path in c.diff(a, changed))


def test_swapping_two_values_changes_the_fingerprint():
    swapped = dataclasses.replace(EXAMPLE, batch_size=EXAMPLE.num_steps, num_steps=EXAMPLE.batch_size)
    assert c.fingerprint(swapped, version=1) != c.fingerprint(EXAMPLE, version=1)


def test_the_order_of_keys_is_irrelevant_and_the_version_is_not():
    reordered = dataclasses.replace(EXAMPLE, weights=dict(reversed(EXAMPLE.weights.items())))
    assert c.fingerprint(reordered, version=1) == c.fingerprint(EXAMPLE, version=1)
    backwards = json.dumps(dict(reversed(json.loads(c.to_json(EXAMPLE)).items())))
    assert c.from_json(Config, backwards) == EXAMPLE
    assert c.fingerprint(EXAMPLE, version=2) != c.fingerprint(EXAMPLE, version=1)
    assert len(c.fingerprint(EXAMPLE, version=1)) == 16


def test_equal_values_of_different_spelling_share_one_text():
    whole = dataclasses.replace(EXAMPLE, learning_rate=1)
    assert c.to_json(whole) == c.to_json(dataclasses.replace(EXAMPLE, learning_rate=1.0))
    minus_zero = dataclasses.replace(EXAMPLE, learning_rate=-0.0)
    assert c.to_json(minus_zero) == c.to_json(dataclasses.replace(EXAMPLE, learning_rate=0.0))


def test_the_canonical_text_is_pinned():
    """A change here changes the identity of every run ever recorded."""
    assert c.to_json(EXAMPLE) == (
        '{"batch_size":64,"colour":"RED","head":null,"kind":"exposed","label":"\\u00e9","learning_rate":0.0003,"limit":null,'
        '"model":{"dropout":0.1,"hidden_dims":[8,4],"type":"Mlp"},"num_steps":100,"shuffle":true,'
        '"weights":{"cart":0.5,"click":1.0},"window":[7,"day"]}'
    )
    assert c.fingerprint(EXAMPLE, version=1) == "f6ea9a37bb5dd2d5"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("batchsize", 3, "batchsize: Config has no field 'batchsize'; did you mean 'batch_size'?"),
        ("model.hiden_dims", [], "model.hiden_dims: Mlp has no field 'hiden_dims'; did you mean 'hidden_dims'?"),
        ("model.type", "Mpl", "model.type: no class 'Mpl' (str); did you mean 'Mlp'?"),
        ("batch_size", 64.0, "batch_size: 64.0 (float) is not an int"),
        ("batch_size", True, "batch_size: True (bool) is not an int"),
        ("learning_rate", "fast", "learning_rate: 'fast' (str) is not a float"),
        ("learning_rate", math.nan, "NaN is not a finite number"),
        ("learning_rate", 10**400, "learning_rate: 1"),
        ("kind", "exposd", "kind: 'exposd' (str) is not one of 'exposed', 'unexposed', 3"),
        ("kind", 3.0, "kind: 3.0 (float) is not one of"),
        ("colour", "BLEU", "colour: no Colour 'BLEU'; did you mean 'BLUE'?"),
        ("window", [1], "window: has 1 values where 2 are needed"),
        ("window", [1, 2], "window[1]: 2 (int) is not a str"),
        ("head", {}, "head.hidden_dims: missing; Mlp needs hidden_dims, dropout"),
        ("limit", "x", "limit: 'x' (str) is not an int or None"),
        ("weights", {"a": None}, "weights.a: None (NoneType) is not a float"),
        ("model", {"type": "Tower", "num_layers": 9, "embed_dim": 2}, "model: num_layers 9 exceeds embed_dim 2"),
    ],
)
def test_wrong_json_is_refused_by_name(path: str, value: Any, message: str):
    tree = c.to_plain(EXAMPLE)
    *parents, last = path.split(".")
    node = tree
    for p in parents:
        node = node[p]
    node[last] = value
    with pytest.raises(InputError) as e:
        c.from_json(Config, json.dumps(tree))
    assert message in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Config: not valid JSON"),
        ("[1]", "the configuration: [1] (list) is not a Config"),
        ('{"batch_size": 1, "batch_size": 2}', "batch_size: given twice"),
        ('{"batch_size": ' + "9" * 5000 + "}", "Config: not valid JSON"),
        ("{}", "model: missing; Config needs model, head"),
    ],
)
def test_text_that_is_no_configuration_is_refused(text: str, message: str):
    with pytest.raises(InputError, match="^" + re.escape(message)):
        c.from_json(Config, text)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"label": Path("here")},
        {"label": print},
        {"weights": {"a", "b"}},
        {"weights": {1: 2.0}},
        {"window": [7, "day"]},
        {"model": object()},
        {"batch_size": Colour.RED},
        {"colour": "RED"},
        {"kind": "elsewhere"},
    ],
)
def test_what_cannot_be_made_canonical_raises(change: dict[str, Any]):
    broken = dataclasses.replace(EXAMPLE, **change)
    with pytest.raises(InputError, match=next(iter(change))):
        c.to_json(broken)
    with pytest.raises(InputError):
        c.fingerprint(broken, version=1)


def test_arrays_and_numpy_integers_raise_and_numpy_doubles_are_doubles():
    np = pytest.importorskip("numpy")
    for change in ({"weights": np.ones(2)}, {"batch_size": np.int64(3)}, {"learning_rate": np.float32(0.1)}):
        with pytest.raises(InputError):
            c.to_json(dataclasses.replace(EXAMPLE, **change))
    assert c.to_json(dataclasses.replace(EXAMPLE, learning_rate=np.float64(3e-4))) == c.to_json(EXAMPLE)


def test_override_reaches_nested_fields_and_leaves_the_rest():
    changed = c.override(EXAMPLE, {"model.hidden_dims": (3,), "weights.click": 2, "colour": Colour.BLUE, "window": [1, "hour"]})
    assert changed.model == Mlp(hidden_dims=(3,), dropout=0.1)
    assert changed.weights == {"click": 2.0, "cart": 0.5}
    assert (changed.colour, changed.window) == (Colour.BLUE, (1, "hour"))
    assert c.diff(EXAMPLE, changed) == {
        "model.hidden_dims": ([8, 4], [3]),
        "weights.click": (1.0, 2.0),
        "colour": ("RED", "BLUE"),
        "window": ([7, "day"], [1, "hour"]),
    }
    assert c.override(EXAMPLE, {}) == EXAMPLE


def test_override_replaces_one_kind_of_model_by_another():
    tower = Tower(num_layers=2, embed_dim=8)
    changed = c.override(EXAMPLE, {"model": tower, "head": Mlp(hidden_dims=(), dropout=0.0)})
    assert changed.model == tower
    assert c.diff(EXAMPLE, changed)["model"][1] == {"type": "Tower", "num_layers": 2, "embed_dim": 8}


def test_overrides_apply_at_once_so_that_checks_see_the_final_state():
    start = dataclasses.replace(EXAMPLE, model=Tower(num_layers=2, embed_dim=2))
    assert c.override(start, {"model.num_layers": 5, "model.embed_dim": 6}).model == Tower(num_layers=5, embed_dim=6)
    with pytest.raises(InputError, match=r"^model: num_layers 5 exceeds embed_dim 2"):
        c.override(start, {"model.num_layers": 5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.dropuot": 0.0}, "model.dropuot: no such field; did you mean 'dropout'?"),
        ({"batch_size.x": 0}, "batch_size.x: batch_size holds a plain value"),
        ({"model": EXAMPLE.model, "model.dropout": 0.0}, "model and model.dropout are both changed"),
        ({"batch_size": "8"}, "batch_size: '8'"),
        ({"model": EXAMPLE}, "model: Config"),
    ],
)
def test_wrong_overrides_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(InputError) as e:
        c.override(EXAMPLE, changes)
    assert str(e.value).startswith(message)


@pytest.mark.parametrize("hint", [int | float, set[int], list[int], Any, object, str | Literal["a"], dict[int, str], Path])
def test_an_annotation_without_one_canonical_form_is_the_programmers_mistake(hint: Any):
    cls = dataclasses.make_dataclass("Loose", [("x", hint)], frozen=True)
    with pytest.raises(TypeError):
        c.to_json(cls({1: "a"} if hint == dict[int, str] else 1))


def test_a_thawed_dataclass_is_refused():
    with pytest.raises(TypeError, match="frozen"):
        c.to_json(dataclasses.make_dataclass("Thawed", [("x", int)])(1))


def test_importing_the_module_needs_nothing_but_the_standard_library():
    code = (
        "import sys; before = set(sys.modules); import unisc.config; "
        "print({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "{'unisc'}"


def test_a_runtime_is_plain_data_and_reports_to_nobody():
    runtime = c.Runtime(work_dir="w", data_dir="d", num_threads=2)
    assert c.from_json(c.Runtime, c.to_json(runtime)) == runtime
    assert runtime.report(0.5) is None
