"""Labels moved on purpose: as many as asked, nothing else touched, and the planted rate found again by the shop's truth."""

import json

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_gen.es3 import ES3Config, build, faults, truth
from data_gen.es3.curves import Samples
from data_gen.es3.degrade import degrade
from data_gen.marketplace.config import MarketplaceConfig
from data_gen.marketplace.generate import generate
from unisc.data import manifest
from unisc.errors import InputError

RATES = (0.25, 0.5, 1.0)
LABELS = [k + c for k in ("click", "purchase") for c in ("", "_level", "_origin", "_ts", "_weight")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("degrade")
    shares = {"search_share": 0.3, "rec_share": 0.6, "retargeting": 0.6}
    generate(MarketplaceConfig(seed=3, preset="default", requests=4000, users=300, **shares), root / "logs", workers=1)
    build(root / "logs", root / "clean", ES3Config(composition="searchified", label_half_life=6 * 3600), threads=2)
    before = (root / "clean" / "manifest.json").read_bytes()
    for rate in RATES:
        degrade(root / "clean", root / str(rate), wrong_label_rate=rate)
    assert (root / "clean" / "manifest.json").read_bytes() == before
    return root


def rows(directory, split="train"):
    return pa.concat_tables(pq.read_table(f) for f in sorted((directory / split).glob("*.parquet")))


def flat(table, name):
    return pc.list_flatten(table[name]).to_numpy()


def positives(table, kind):
    """What each attributed label is apart from its item: request, exposure, event; as a sorted list."""
    parent = pc.list_parent_indices(table["item_id"]).to_numpy()
    on = flat(table, f"{kind}_level") > 1
    columns = [parent, flat(table, "exposed"), *(flat(table, f"{kind}_{c}") for c in ("ts", "origin", "weight"))]
    return sorted(zip(*(c[on].tolist() for c in columns), strict=True))


@pytest.mark.parametrize("rate", RATES)
def test_nothing_but_the_items_of_attributed_labels_changes(made, rate):
    clean, worse = rows(made / "clean"), rows(made / str(rate))
    for name in ("price", "propensity"):  # which may be NaN
        np.testing.assert_array_equal(flat(clean, name), flat(worse, name))
    others = [*LABELS, "price", "propensity"]
    assert clean.drop_columns(others).equals(worse.drop_columns(others))
    shards = [manifest.read(made / name, kind="samples")["shards"] for name in ("clean", str(rate))]
    shards = [{name: s for name, s in of.items() if not name.startswith("train/")} for of in shards]
    assert shards[0] == shards[1]
    for kind in ("click", "purchase"):
        assert positives(clean, kind) == positives(worse, kind)
        own = flat(clean, f"{kind}_level") == 1
        pseudo = np.repeat((clean["origin"].to_numpy() == "searchified"), pc.list_value_length(clean["item_id"]).to_numpy())
        for name in (n for n in LABELS if n.startswith(kind)):
            a, b = flat(clean, name), flat(worse, name)
            assert (a[own | pseudo] == b[own | pseudo]).all()
        assert (flat(worse, kind) == (flat(worse, f"{kind}_level") > 0)).all()


@pytest.mark.parametrize("rate", RATES)
def test_moved_labels_keep_to_the_rules_of_the_samples(made, rate):
    about = manifest.read(made / str(rate), kind="samples", verify=True)
    with duckdb.connect() as db:
        found = faults.measure(Samples(db, made / str(rate)), about)
    assert not any(found["conflicts"].values())
    assert not any(found["leaks"].values())
    assert not any(found["repeats"].values())


@pytest.mark.parametrize("rate", RATES)
def test_the_planted_rate_is_what_moved_and_what_the_logs_do_not_know(made, rate):
    about = manifest.read(made / str(rate), kind="samples")
    moved = about["degradation"]
    for kind in ("click", "purchase"):
        n = moved[kind]["labels"]
        assert n > 100
        assert abs(moved[kind]["moved"] - rate * n) <= 3 * np.sqrt(n * rate * (1 - rate)) + 0.01 * n
    with duckdb.connect() as db:
        found = faults.measure_against(Samples(db, made / str(rate)), about, made / "logs")["labels"]
    # Independent of the moving code: a moved label names an event that never was, but for the rare user who did both.
    assert found["missing"] == pytest.approx(moved["click"]["moved"] + moved["purchase"]["moved"], rel=0.02)


def test_the_measured_precision_falls_by_the_planted_rate(made):
    clean = truth.measure(made / "clean", made / "logs")
    for rate in RATES:
        worse = truth.measure(made / str(rate), made / "logs")
        moved = manifest.read(made / str(rate), kind="samples")["degradation"]
        for kind in ("click", "purchase"):
            right = 1 - moved[kind]["moved"] / moved[kind]["labels"]
            low, high = worse[kind]["precision"]["low"], worse[kind]["precision"]["high"]
            # A moved click label does a little worse than at random, at which precision is 0.
            wide = (high - low) + (0.12 * rate if kind == "click" else 0.0)
            assert worse[kind]["precision"]["value"] == pytest.approx(right * clean[kind]["precision"]["value"], abs=wide)
            assert worse[kind]["labels"] == clean[kind]["labels"]
            assert len(worse[kind]["precision"]["replicates"]) == truth.GROUPS


def test_the_labels_of_a_lower_rate_are_among_those_of_a_higher_one(made):
    items = {rate: flat(rows(made / str(rate)), "click_level") for rate in RATES}
    clean = flat(rows(made / "clean"), "click_level")
    for low, high in ((0.25, 0.5), (0.5, 1.0)):
        gone, landed = (clean > 1) & (items[low] == 0), (clean == 0) & (items[low] > 1)
        assert gone.any()
        assert (items[high][gone] == 0).all()
        assert (items[high][landed] > 1).all()


def test_precision_is_that_of_a_loop_over_the_candidates(made):
    table = rows(made / "clean")
    table = table.filter(pc.equal(table["origin"], "logged"))
    lists = {name: table[name].to_pylist() for name in ("item_id", "click_level")}
    level = {
        (q, i): v
        for q, ids, levels in zip(table["request_id"].to_pylist(), *lists.values(), strict=True)
        for i, v in zip(ids, levels, strict=True)
    }
    oracle, logged = pq.read_table(made / "logs" / "oracle"), pq.read_table(made / "logs" / "candidates")
    key = lambda t: list(zip(t["request_id"].to_pylist(), t["item_id"].to_pylist(), strict=True))  # noqa: E731
    shown = dict(zip(key(logged), logged["exposed"].to_pylist(), strict=True))
    requests = set(table["request_id"].to_pylist())
    pools: dict = {}
    for at, p in zip(key(oracle), oracle["p_click_top"].to_pylist(), strict=True):
        if at[0] in requests:
            pools.setdefault((at[0], shown[at]), []).append((p, level.get(at, 0)))
    rest = {at: np.mean([p for p, v in pool if v != 1]) for at, pool in pools.items() if any(v != 1 for _, v in pool)}
    total = weight = 0.0
    for side in (True, False):
        own = [p - rest[q, side] for (q, _), pool in pools.items() for p, v in pool if v == 1 and (q, side) in rest]
        excess = [p - rest[q, s] for (q, s), pool in pools.items() if s == side for p, v in pool if v > 1]
        total, weight = total + sum(excess) / np.mean(own), weight + len(excess)
    found = truth.measure(made / "clean", made / "logs")["click"]
    assert found["labels"] == weight
    assert found["precision"]["value"] == pytest.approx(total / weight, rel=1e-6)
    assert found["precision"]["low"] < found["precision"]["value"] < found["precision"]["high"]


def test_the_same_call_makes_the_same_files_and_another_seed_others(made, tmp_path):
    again = degrade(made / "clean", tmp_path / "again", wrong_label_rate=0.5)
    assert again["fingerprint"] == manifest.read(made / "0.5", kind="samples")["fingerprint"]
    other = degrade(made / "clean", tmp_path / "other", wrong_label_rate=0.5, seed=1)
    assert other["fingerprint"] != again["fingerprint"]
    assert other["config"] == {**again["config"], "wrong_label_seed": 1}
    assert "oracle" not in again["quality"] and json.dumps(again)


@pytest.mark.parametrize("rate", [0, -0.1, 1.01, float("nan"), True])
def test_a_rate_that_is_none_is_refused(made, tmp_path, rate):
    with pytest.raises(InputError, match=r"wrong_label_rate .*: give a share above 0 and at most 1"):
        degrade(made / "clean", tmp_path / "out", wrong_label_rate=rate)
    assert not (tmp_path / "out").exists()


def test_samples_that_have_nothing_to_move_are_refused(made, busy_logs, tmp_path):
    with pytest.raises(InputError, match="its labels were moved before"):
        degrade(made / "0.5", tmp_path / "out", wrong_label_rate=0.5)
    build(busy_logs, tmp_path / "shown", ES3Config(composition="exposed"))
    with pytest.raises(InputError, match="composition exposed has no attributed label; build one that has"):
        degrade(tmp_path / "shown", tmp_path / "out", wrong_label_rate=0.5)
    with pytest.raises(InputError, match="not the logs of these samples"):
        truth.measure(made / "clean", busy_logs)
    assert not (tmp_path / "out").exists()
