"""Samples from histories: what lists hold, what their labels and numbers say, and the floors beside them."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen.es3.dataset import write_dataset
from data_gen.es3.report import report
from data_gen.public import amazon_cds, histories, sessions
from data_gen.public.__main__ import main
from data_gen.public.adapter import convert
from data_gen.public.next_floors import TOP, floors
from data_gen.public.retrieved import RetrieveConfig, retrieve
from data_gen.public.retrieved_rows import NUMBERS
from unisc.data.columns import load
from unisc.errors import InputError

SMALL = RetrieveConfig(candidates=4, train_candidates=3, train_requests=50)


def of_sessions(folder, train, test):
    """Convert sessions and (prefix, target) cases."""
    ids = pa.list_(pa.int64())
    folder.mkdir()
    prefixes, targets = zip(*test, strict=True)
    pq.write_table(pa.table({"items": pa.array(train, ids)}), folder / sessions.TRAIN.format("tmall"))
    cases = {"prefix": pa.array(prefixes, ids), "target": pa.array(targets, pa.int64())}
    pq.write_table(pa.table(cases), folder / sessions.TEST.format("tmall"))
    convert(sessions.ADAPTERS["sessions_tmall"], folder, folder / "made")
    return folder / "made"


def of_pairs(folder, train, test):
    """Convert (user, item) pairs."""
    folder.mkdir()
    rows = [(*pair, "train") for pair in train] + [(*pair, "test") for pair in test]
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(("user", "item", "split"))})
    pq.write_table(table, folder / amazon_cds.PAIRS)
    convert(amazon_cds.ADAPTER, folder, folder / "made")
    return folder / "made"


def random_sessions(folder, *, seed=0, num=60, num_items=30):
    rng = np.random.default_rng(seed)
    walk = lambda n: ((rng.integers(num_items) + rng.integers(0, 4, n).cumsum()) % num_items).tolist()  # noqa: E731
    train = [list(range(num_items)), *(walk(rng.integers(2, 8)) for _ in range(num))]
    return of_sessions(folder, train, [(row[:-1], row[-1]) for row in (walk(rng.integers(2, 6)) for _ in range(20))])


def rows_of(samples, name):
    return pq.read_table(samples / name).to_pylist()


def test_test_lists_hold_every_candidate_and_missed_targets_stand_in_the_targets(tmp_path):
    converted = of_sessions(tmp_path / "s", [[0, 1], [0, 1], [0, 2], [3, 4], [5, 3]], [([0], 1), ([0], 5), ([3, 0], 0)])
    made = retrieve(converted, tmp_path / "out", SMALL)
    rows = rows_of(tmp_path / "out", "test")
    assert [row["item_id"] for row in rows] == [[1, 2, 0, 3], [1, 2, 0, 3], [1, 2, 4, 5]]
    assert [row["click"] for row in rows] == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert [row["rank"] for row in rows] == [[0, 1, 2, 3]] * 3
    assert rows_of(tmp_path / "out", "targets") == [{"request_id": i, "item_ids": [t]} for i, t in enumerate((1, 5, 0))]
    assert made["quality"]["test targets retrieved"] == pytest.approx(1 / 3)
    assert made["counts"]["test_requests"] == made["counts"]["test_asked"] == 3


def test_train_lists_hold_their_target_and_a_draw_of_the_others(tmp_path):
    converted = random_sessions(tmp_path / "s")
    made = retrieve(converted, tmp_path / "out", RetrieveConfig(candidates=10, train_candidates=4, train_requests=200))
    rows = rows_of(tmp_path / "out", "train")
    assert 0 < len(rows) == made["counts"]["train_requests"] < made["counts"]["train_asked"] == 200
    assert made["quality"]["train targets retrieved"] == len(rows) / 200
    for row in rows:
        assert len(row["item_id"]) == 4 and sum(row["click"]) == 1
        assert row["rank"] == sorted(row["rank"]) and row["rank"][-1] < 10
        chances = {1: 1.0, 0: pytest.approx(3 / 9)}
        assert row["probability"] == [chances[y] for y in row["click"]]
    drawn = np.concatenate([np.array(row["rank"])[np.array(row["click"]) == 0] for row in rows])
    assert np.bincount(drawn, minlength=10).min() > 0, "from every rank, so that a rank does not tell the target"


def test_histories_and_touches_are_those_before_the_target(tmp_path):
    converted = of_sessions(tmp_path / "s", [[7, 8, 7, 9], [8, 9], [9, 7], [7, 9]], [([7, 8, 7], 9)])
    retrieve(converted, tmp_path / "out", SMALL)
    (row,) = rows_of(tmp_path / "out", "test")
    assert row["history_item_id"] == [0, 1, 0] and row["history_age"] == [1, 2, 3], "the most recent first"
    assert (row["ts"], row["user_id"]) == (3, 0)
    touched = dict(zip(row["item_id"], zip(row["touches"], row["touch_age"], strict=True), strict=True))
    assert touched == {0: (2, 1), 1: (1, 2), 2: (0, -1)}


def test_what_the_user_has_is_no_candidate_and_users_keep_their_ids(tmp_path):
    train = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 3)]
    converted = of_pairs(tmp_path / "c", train, [(0, 2), (0, 3), (2, 0)])
    made = retrieve(converted, tmp_path / "out", SMALL)
    rows = rows_of(tmp_path / "out", "test")
    assert [row["user_id"] for row in rows] == [0, 2]
    assert [sorted(row["item_id"]) for row in rows] == [[2, 3], [0, 2]]
    assert [t["item_ids"] for t in rows_of(tmp_path / "out", "targets")] == [[2, 3], [0]]
    assert made["quality"]["test targets retrieved"] == 1
    for row in rows_of(tmp_path / "out", "train"):
        target = row["item_id"][row["click"].index(1)]
        assert (row["user_id"], target) in train
        assert sorted([target, *row["history_item_id"]]) == [i for u, i in train if u == row["user_id"]]
        assert not set(row["item_id"]) & set(row["history_item_id"])


def test_each_user_is_drawn_once_before_any_is_drawn_twice(tmp_path):
    train = [(u, i) for u in range(6) for i in range(2 + u)] + [(6, 0)]
    found = histories.read(of_pairs(tmp_path / "c", train, [(0, 5)]))
    drawn = found.draw(9, np.random.default_rng(0))
    assert sorted(drawn.own[:6]) == list(range(6)) and len(set(drawn.own[6:])) == 3
    assert 6 not in found.draw(100, np.random.default_rng(0)).own, "a history of one item leaves nothing to go by"
    assert len(found.draw(100, np.random.default_rng(0))) == len(train) - 1


def test_numbers_reach_a_model_as_features(tmp_path):
    retrieve(random_sessions(tmp_path / "s"), tmp_path / "out", SMALL)
    columns = load(tmp_path / "out", "test", history_len=5)
    names = [field.name for field in columns.spec.numeric]
    rows = rows_of(tmp_path / "out", "test")
    for name in NUMBERS:
        expected = list(itertools.chain.from_iterable(row[name] for row in rows))
        np.testing.assert_array_equal(columns.candidate_numeric[:, names.index(name.removeprefix("number_"))], expected)
    assert np.abs(columns.candidate_numeric).max() < 10


def test_what_needs_a_build_says_so(tmp_path):
    retrieve(random_sessions(tmp_path / "s"), tmp_path / "out", SMALL)
    with pytest.raises(InputError, match=r"has number_log_count, .* which blocks have no place for"):
        write_dataset(tmp_path / "out", tmp_path / "blocks")
    with pytest.raises(InputError, match="retrieved samples, which no build made"):
        report(tmp_path / "out")


def test_the_same_lists_again_and_others_by_another_seed(tmp_path):
    converted = random_sessions(tmp_path / "s")
    prints = []
    for i, seed in enumerate((0, 0, 1)):
        config = RetrieveConfig(candidates=5, train_candidates=3, train_requests=40, seed=seed)
        prints.append(retrieve(converted, tmp_path / f"out{i}", config)["fingerprint"])
    assert prints[0] == prints[1] != prints[2]


def test_floors_by_hand(tmp_path):
    converted = of_sessions(tmp_path / "s", [[0, 1], [0, 2], [0, 2], [3, 0]], [([3, 0], 1), ([2], 3), ([0], 0)])
    found = histories.read(converted)
    reached = floors(found, found.test, num_items=4)
    # By counts 0 (4), 2 (2), then 1 and 3 by their ids; after 0 came 2 and then 1, nothing after 2.
    assert reached["popularity"]["mrr@20"] == pytest.approx((1 / 3 + 1 / 4 + 1) / 3)
    assert reached["followers"]["mrr@20"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert reached["followers"]["recall@20"] == pytest.approx(1 / 3)


def test_the_popularity_floor_leaves_out_what_the_user_has(tmp_path):
    train = [(u, i) for i in range(TOP + 2) for u in range(1, 40 - i)] + [(0, i) for i in range(3)]
    found = histories.read(of_pairs(tmp_path / "c", train, [(0, 3), (0, TOP + 1)]))
    reached = floors(found, found.test, num_items=TOP + 2)["popularity"]
    assert reached == {
        "recall@20": 1.0, "hr@20": 1.0, "mrr@20": 1.0,
        "ndcg@20": pytest.approx((1 + 1 / np.log2(TOP)) / (1 + 1 / np.log2(3))),
    }  # fmt: skip
    assert "followers" not in floors(found, found.test, num_items=TOP + 2)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"candidates": 1}, "candidates 1: out of range; give a whole number from 2 to 32767"),
        ({"train_candidates": 101}, "train_candidates 101: out of range; give a whole number from 2 to 100"),
        ({"train_requests": 0}, "train_requests 0: out of range"),
        ({"test_requests": -1}, "test_requests -1: out of range"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_line(changed, words):
    with pytest.raises(InputError, match=words):
        RetrieveConfig(**changed)


def test_unusable_sources_are_one_line(tmp_path, monkeypatch, capsys):
    only = of_sessions(tmp_path / "s", [[1], [2]], [([1], 2)])
    with pytest.raises(InputError, match="no train history of two items"):
        retrieve(only, tmp_path / "out", SMALL)
    with pytest.raises(InputError, match=r"no manifest\.json"):
        retrieve(tmp_path, tmp_path / "out", SMALL)
    missed = of_sessions(tmp_path / "m", [[1, 2], [3, 4]], [([1], 2)])
    with pytest.raises(InputError, match="no target of 2 train requests is retrieved; give more candidates"):
        retrieve(missed, tmp_path / "out", RetrieveConfig(candidates=2, train_candidates=2))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    monkeypatch.setattr("sys.argv", ["x", "retrieve", str(missed), "--out", str(missed)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
