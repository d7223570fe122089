"""Samples of events of several kinds: what a list proposes, what its labels say in each composition, and what is bad input."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen.public import adapter, retailrocket
from data_gen.public.__main__ import main
from data_gen.public.actions import COMPOSITIONS, ActionsConfig, build
from unisc.data.columns import load
from unisc.errors import InputError

REAL = (
    Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "retailrocket_multibehavior"
)
T0 = 1_433_222_501
SMALL = ActionsConfig(candidates=4, touched=2, test_share=0.5, window_secs=100)


def converted(folder: Path, events):
    """Convert (user, item, behavior, second) rows."""
    folder.mkdir()
    rows = [{"user": u, "item": i, "behavior": b, "timestamp": T0 + t} for u, i, b, t in events]
    pq.write_table(pa.Table.from_pylist(rows), folder / retailrocket.SUBSET)
    pq.write_table(pa.table({"user": [rows[0]["user"]], "item": [rows[0]["item"]]}), folder / retailrocket.TEST)
    adapter.convert(retailrocket.ADAPTER, folder, folder / "made")
    return folder / "made"


EVENTS = [
    (0, 0, "view", 0), (0, 1, "view", 10), (0, 2, "view", 20), (0, 1, "cart", 30), (0, 1, "buy", 40), (0, 2, "cart", 90),
    (0, 3, "view", 200), (0, 3, "buy", 1000),
    (1, 0, "view", 5), (1, 2, "view", 15), (1, 2, "buy", 25), (1, 3, "view", 35),
    (2, 1, "view", 1100), (2, 0, "view", 1110), (2, 0, "buy", 1120),
]  # fmt: skip


def rows_of(samples: Path, split: str):
    return sorted(pq.read_table(samples / split).to_pylist(), key=lambda row: (row["user_id"], row["ts"]))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("actions")
    return build(converted(root / "source", EVENTS), root / "samples", SMALL), root / "samples"


def test_target_lists_hold_what_was_touched_last_first(made):
    _, samples = made
    first, second = rows_of(samples / "exposed", "train")
    assert (first["user_id"], first["ts"], first["domain"]) == (0, T0 + 40, "purchase")
    assert first["item_id"][:2] == [1, 2], "carted last, then viewed last; item 0 was touched too, and two slots are for those"
    assert first["click"] == [1, 0, 0, 0]
    assert first["touches"][:2] == [2, 1]
    assert first["touch_age"][:2] == [10, 20]
    assert first["number_in_cart"][:2] == [1, 0]
    assert first["history_item_id"] == [1, 2, 1, 0], "most recent first"
    assert first["history_age"] == [10, 20, 30, 40]
    assert (second["user_id"], second["item_id"][:2]) == (1, [2, 0])


def test_histories_are_strictly_before_and_test_lists_after_the_split(made):
    manifests, samples = made
    start = manifests["exposed"]["test_start"]
    for split in ("train", "test"):
        for row in rows_of(samples / "searchified", split):
            assert all(age >= 1 for age in row["history_age"])
            assert (row["ts"] >= start) == (split == "test")
    assert {row["domain"] for row in rows_of(samples / "searchified", "test")} == {"purchase"}


def test_an_item_that_was_bought_is_not_proposed_as_touched(made):
    _, samples = made
    (late,) = [row for row in rows_of(samples / "exposed", "test") if row["user_id"] == 0]
    assert late["item_id"][:2] == [3, 2], "item 1 was bought"


def test_attributed_lists_take_later_foreign_actions_as_labels(made):
    manifests, samples = made
    first, second = rows_of(samples / "attributed", "train")
    at = first["item_id"].index(2)
    assert (first["click"][at], first["click_level"][at], first["click_origin"][at]) == (1, 2, 1), "a cart 50 seconds later"
    assert first["click_ts"][at] == T0 + 90
    assert sum(second["click"]) == 1 + (3 in second["item_id"])
    assert manifests["attributed"]["counts"]["train_attributed"] == sum(
        level > 1 for row in (first, second) for level in row["click_level"]
    )
    assert str(rows_of(samples / "attributed", "test")) == str(rows_of(samples / "exposed", "test")), "unknown numbers are NaN"


def test_foreign_requests_have_domains_of_their_own(made):
    _, samples = made
    rows = rows_of(samples / "searchified", "train")
    foreign = [row for row in rows if row["domain"] != "purchase"]
    assert {row["domain"] for row in foreign} == {"cart", "click"}
    assert all(row["request_id"] < 0 and row["origin"] == "searchified" and 1 in row["click_level"] for row in foreign)
    own = [row for row in rows if row["domain"] == "purchase"]
    assert str(own) == str(rows_of(samples / "exposed", "train"))


def test_samples_load_with_the_same_features_in_every_composition(made):
    _, samples = made
    specs = [load(samples / name, "train", history_len=4).spec for name in COMPOSITIONS]
    assert specs[0] == specs[1] == specs[2]
    assert specs[0].domains == ("purchase", "cart", "click")
    assert {"in_cart", "score_over_best", "log_count"} <= {field.name for field in specs[0].numeric}


def test_a_visitor_counts_for_nothing_in_his_own_lists(tmp_path):
    """Scores of retrieval are what the others say: where nobody else met the items, there are none."""
    events = [(0, 0, "view", 0), (0, 1, "cart", 9), (0, 0, "buy", 10), (1, 2, "view", 0), (1, 3, "cart", 5), (1, 2, "buy", 20)]
    found = build(converted(tmp_path / "s", [*events, (1, 3, "buy", 500)]), tmp_path / "out", SMALL)
    assert found.keys() == set(COMPOSITIONS)
    for row in rows_of(tmp_path / "out" / "searchified", "train"):
        mine = [0, 1] if row["user_id"] == 0 else [2, 3]
        scores = dict(zip(row["item_id"], row["number_score_over_best"], strict=True))
        counts = dict(zip(row["item_id"], row["number_log_count"], strict=True))
        assert all(scores[i] == 0 and counts[i] == 0 for i in mine if i in scores)


def test_same_events_give_the_same_samples(tmp_path, made):
    again = build(converted(tmp_path / "s", EVENTS), tmp_path / "out", SMALL)
    assert {name: m["fingerprint"] for name, m in again.items()} == {name: m["fingerprint"] for name, m in made[0].items()}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--target", "like"], "target 'like': no kind of event; give one of click, cart, purchase"),
        (["--candidates", "1"], "candidates 1: out of range"),
        (["--test-share", "1.5"], "test_share 1.5: is no share"),
        (["--candidates", "2", "--touched", "3"], "touched 3: out of range"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, words, text):
    source = converted(tmp_path / "s", EVENTS)
    monkeypatch.setattr("sys.argv", ["actions", "actions", str(source), "--out", str(tmp_path / "out"), *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert text in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_logs_of_one_kind_or_of_another_shape_are_refused(tmp_path):
    views = converted(tmp_path / "s", [(0, 0, "view", 0), (0, 1, "view", 1)])
    with pytest.raises(InputError, match="purchase and another kind are needed"):
        build(views, tmp_path / "out", SMALL)
    with pytest.raises(InputError, match="composition 'unexposed': events give none"):
        build(views, tmp_path / "out", SMALL, ("unexposed",))


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL}: no RetailRocket subset there; set UNISC_REAL_DATA to its parent")
def test_real_subset_of_carts(tmp_path):
    adapter.convert(retailrocket.ADAPTER, REAL, tmp_path / "events")
    few = ActionsConfig(target="cart", requests_a_user=2, foreign_requests=300)
    made = build(tmp_path / "events", tmp_path / "out", few)
    counts = made["searchified"]["counts"]
    assert made["searchified"]["domains"] == ["cart", "purchase", "click"]
    assert counts["train_requests cart"] == made["exposed"]["counts"]["train_requests"] > 500
    assert counts["train_requests click"] < 0.3 * counts["train click drawn"], "what comes next is rarely found"
    assert made["attributed"]["counts"]["train_attributed"] > 100
    test = pq.read_table(tmp_path / "out" / "exposed" / "test", columns=["click", "touch_age"])
    ranks = [1 / (1 + labels.index(1)) for labels in test["click"].to_pylist()]
    assert 0.8 < np.mean(ranks) < 0.95, "what was touched last leads the lists"
    assert made["exposed"]["quality"]["test MRR, as proposed"] == pytest.approx(np.mean(ranks))
