"""Interests of log tables: against a loop over pages, without a glance at the future, and whatever the logs lack or break."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.interests import InterestsConfig, build
from data_gen.interests.visual import vectors
from data_gen.marketplace.config import preset
from data_gen.marketplace.generate import generate
from unisc.data import manifest
from unisc.data.interests import SPLITS, load
from unisc.data.ragged import Ragged
from unisc.data.text import load_tokenizer
from unisc.errors import InputError

DAY, TEST_START = 86_400, 10 * 86_400
SMALL = InterestsConfig(vocab_size=300, history_len=4, max_shown=3, validation_share=0.2)


@pytest.fixture(scope="module")
def new_shop(load_file, request):
    """The hand-made shop of the tests of ES3."""
    return load_file(request.path.parents[1] / "es3" / "conftest.py").Shop


def drawn(new_shop, seed: int, *, num_pages=60):
    """A shop full of ties: few seconds, items and users, so that clicks and requests of one second meet."""
    rng, shop = np.random.default_rng(seed), new_shop()
    for i in range(9):
        shop.item(i, categories=(0, 0, i % 3), brand=i % 2, title=f"item {i}")
    queries = [shop.query(text) for text in ("item", "🛋️🎉", "red item")]
    shop.last_user = 3
    times = [*rng.integers(0, 12, num_pages - 10) * DAY // 12, *(TEST_START + rng.integers(0, 5, 10))]
    for ts in map(int, rng.permutation(times)):
        user, domain = int(rng.integers(3)), str(rng.choice(shop.domains, p=[0.7, 0.2, 0.1]))
        items = rng.permutation(9).tolist()
        query = int(rng.choice(queries)) if domain == "search" else None
        page = shop.request(user, ts, shown=items[:6], hidden=items[6:], domain=domain, query=query)
        for item in items[:6]:
            if rng.random() < 0.4:
                kind = str(rng.choice(["click", "click", "click", "cart"]))
                shop.event(user, item, ts + int(rng.integers(0, 2)) * DAY // 12, domain, kind, request=page)
        if rng.random() < 0.2:
            shop.event(user, int(rng.integers(9)), ts, "rec", "click")
    return shop


def reference(shop, split_of, config):
    """The same examples by loops over pages: (user, query, items clicked before, targets, shown), by split."""
    clicks = sorted(
        (e["ts"], -1 if e["request_id"] is None else shop.place[e["request_id"]], e["item_id"], e["user_id"])
        for e in shop.rows["events"] if e["kind"] == "click"
    )  # fmt: skip
    made = {split: [] for split in SPLITS}
    for page in sorted(shop.rows["requests"], key=lambda r: (r["ts"], r["request_id"])):
        on_page = [e for e in shop.rows["events"] if e["request_id"] == page["request_id"]]
        targets = sorted({e["item_id"] for e in on_page if e["kind"] == "click"})
        if page["domain"] != "search" or not targets:
            continue
        touched = {e["item_id"] for e in on_page}
        listed = [c for c in shop.rows["candidates"] if c["request_id"] == page["request_id"] and c["exposed"]]
        shown = [c["item_id"] for c in sorted(listed, key=lambda c: c["position"]) if c["item_id"] not in touched]
        history = [item for ts, _, item, user in clicks if user == page["user_id"] and ts < page["ts"]][-config.history_len :]
        row = (page["user_id"], page["query_id"], history)
        split = split_of(page["ts"])
        for wanted in [[t] for t in targets] if split == "train" else [targets]:
            made[split].append((*row, wanted, shown[: config.max_shown]))
    return made


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**31))
def test_examples_are_those_of_a_loop_and_see_no_future(new_shop, tmp_path_factory, seed):
    shop, folder = drawn(new_shop, seed), tmp_path_factory.mktemp("drawn")
    order = sorted(shop.rows["requests"], key=lambda r: (r["ts"], r["request_id"]))
    shop.place = {r["request_id"]: i for i, r in enumerate(order)}
    build(shop.write(folder / "logs"), folder / "out", SMALL)
    found = load(folder / "out")
    tokenizer = load_tokenizer(found.tokenizer)
    clicked = [
        r["ts"] for r in order if r["domain"] == "search" and r["ts"] < TEST_START
        for _ in {e["item_id"] for e in shop.rows["events"] if e["request_id"] == r["request_id"] and e["kind"] == "click"}
    ]  # fmt: skip
    start = clicked[len(clicked) - int(0.2 * len(clicked))]
    names = {tokenizer.encode([q["text"]]).values.tobytes(): i for i, q in enumerate(shop.queries)}
    expected = reference(shop, lambda ts: "test" if ts >= TEST_START else "validation" if ts >= start else "train", SMALL)
    for split in SPLITS:
        rows = getattr(found, split)
        lists = [(rows.history.row(i), rows.targets.row(i), rows.shown.row(i)) for i in range(rows.num_examples)]
        said = [names[rows.query.row(i).tobytes()] for i in range(rows.num_examples)]
        made = [(u, q, *(x.tolist() for x in row)) for u, q, row in zip(rows.user.tolist(), said, lists, strict=True)]
        assert made == expected[split], split
    seen = {(e["user_id"], e["item_id"]) for e in shop.rows["events"] if e["kind"] == "click" and e["ts"] < start}
    assert {(u, i) for u in range(3) for i in found.known.row(u).tolist()} == seen


def test_how_the_logs_lie_on_disk_does_not_matter(new_shop, tmp_path):
    shop = drawn(new_shop, 5)
    build(shop.write(tmp_path / "logs"), tmp_path / "one", SMALL)
    for rows in (shop.rows[name] for name in ("requests", "candidates", "events")):
        rows.reverse()
    build(shop.write(tmp_path / "reversed"), tmp_path / "two", SMALL)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.npy"))
    assert len(files) > 30
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_the_corpus_has_titles_and_the_queries_of_train_alone(new_shop, tmp_path):
    shop = new_shop().live()
    shop.item(1, title=" red lamp "), shop.item(2, title="red lamp"), shop.item(3, title="🛋️")
    asked, late, emoji, _ = (shop.query(text) for text in ("lamp", "tomorrow", "🎉🎉", "nobody asks"))
    shop.request(0, 10, shown=[1], query=asked)
    shop.event(0, 1, 11, request=shop.request(0, 9, shown=[1], query=emoji))
    shop.event(0, 1, TEST_START + 1, request=shop.request(0, TEST_START, shown=[1], query=late))
    made = build(shop.write(tmp_path / "logs"), tmp_path / "out", InterestsConfig(validation_share=0.0))
    found = load(tmp_path / "out")
    tokenizer = load_tokenizer(found.tokenizer)
    texts = [tokenizer.decode(found.corpus.row(i)) for i in range(found.corpus.num_rows)]
    assert texts == ["red lamp", "🛋️", "lamp", "🎉🎉"]
    # An item without text has no tokens; equal titles stay two items; a query of emoji alone has tokens like any other.
    assert found.catalogue.num_items == 4 and len(found.catalogue.text.row(0)) == 0
    np.testing.assert_array_equal(found.catalogue.text.row(1), found.catalogue.text.row(2))
    assert "🎉🎉" in [tokenizer.decode(found.train.query.row(i)) for i in range(found.train.num_examples)]
    quality = made["quality"]
    assert quality["items without text"] == 1 and quality["items whose title another has"] == 2
    assert quality["queries without a letter or digit"] == 1
    assert not quality["dropped"]
    assert quality["examples without a query"]["train"] == 1 and quality["empty histories"]["train"] >= 1


def test_rows_that_cannot_be_used_are_counted(new_shop, tmp_path):
    shop = new_shop().live()
    page = shop.request(0, 5000, shown=[0, 1], query=shop.query("a"))
    shop.event(0, 1, 5001, request=page)
    tables = shop.tables()
    shop.event(0, 7, 5001, request=page)  # an item of no catalogue
    shop.event(9, 0, 5001, request=page)  # nobody
    shop.event(0, 0, 4000, request=page)  # before its page
    shop.event(0, 0, 5000)
    shop.rows["events"][-1]["user_id"] = None
    shop.rows["requests"].append({**shop.rows["requests"][-1], "ts": 6000})
    shop.rows["candidates"].append({"request_id": page, "item_id": 8, "rank": 2, "exposed": True, "position": 2})
    for name in ("requests", "candidates", "events"):
        tables[name] = pa.Table.from_pylist(shop.rows[name], schema=tables[name].schema)
    made = build(shop.write(tmp_path / "logs", **tables), tmp_path / "out", InterestsConfig(validation_share=0.0))
    assert made["quality"]["dropped"] == {
        "requests whose id another has": 1,
        "events with a null where none may be": 1,
        "events of an unknown user or item": 2,
        "events on a page from before it was asked for": 1,
        "shown items that the catalogue lacks": 1,
    }
    train = load(tmp_path / "out").train
    assert train.targets.values.tolist() == [0, 1] and train.shown.row(1).tolist() == [0]


def test_other_domains_and_features_of_converted_logs(new_shop, tmp_path):
    shop = new_shop().live()
    shop.item(0, categories=(1, 2, 0), brand=0)
    shop.item(1, categories=(1, 2, 5), brand=3)
    shop.event(0, 1, 31, "rec", request=shop.request(0, 30, shown=[0, 1], domain="rec"))
    logs, config = shop.write(tmp_path / "logs"), InterestsConfig(domains=("search", "rec"), validation_share=0.0)
    build(logs, tmp_path / "own", config)
    own = load(tmp_path / "own")
    assert own.train.num_examples == 2 and own.train.query.row(0).size == 0 and own.train.shown.row(0).tolist() == [0]
    assert own.catalogue.category.tolist() == [0, 5] and own.catalogue.brand.tolist() == [0, 3]
    assert own.catalogue.visual is None  # nobody generated these logs
    about = json.loads((logs / manifest.NAME).read_text())
    about["config"] = {"source": "somewhere"}
    (logs / manifest.NAME).write_text(json.dumps(about))
    build(logs, tmp_path / "converted", config)
    converted = load(tmp_path / "converted").catalogue
    assert converted.category.tolist() == [-1, 5] and converted.brand.tolist() == [-1, 3]


def test_a_generated_shop_has_vectors_that_show_its_leaf_and_not_its_brand(tmp_path):
    changes = {"requests": 400, "users": 40, "items": 900, "new_items_per_day": 5, "category_1": 2, "category_2": 3}
    more = {"category_3": 6, "brands": 8, "shops": 4, "attributes": 12, "queries": 20, "segments": 4}
    generate(preset("default", seed=1, **changes, **more), tmp_path / "logs", workers=1)
    made = build(tmp_path / "logs", tmp_path / "out", InterestsConfig(vocab_size=400, visual_dim=32))
    found = load(tmp_path / "out")
    visual, leaf, brand = found.catalogue.visual, found.catalogue.category, found.catalogue.brand
    assert visual.shape == (900, 32) and visual.dtype == np.float32
    np.testing.assert_allclose(np.mean(np.asarray(visual) ** 2, axis=1), 1, rtol=1e-5)

    def accuracy(label):
        # Nearest class mean, learned on one half of the items; brands lean to leaves, so within a leaf.
        rows, half = np.flatnonzero(leaf == 0) if label is brand else np.arange(900), np.arange(900) % 2 == 0
        train, test = rows[half[rows]], rows[~half[rows]]
        classes = np.unique(label[train])
        means = np.stack([visual[train][label[train] == c].mean(0) for c in classes])
        said = classes[np.argmin(((visual[test][:, None] - means) ** 2).sum(-1), axis=1)]
        return np.mean(said == label[test]), np.bincount(label[test]).max() / len(test)

    assert accuracy(leaf)[0] > 0.9
    said, commonest = accuracy(brand)
    assert said < commonest + 0.1
    assert made["config"]["made_from"]["source"] == "marketplace"


def test_vectors_do_not_depend_on_how_many_there_are():
    leaf, attributes = np.array([1, 0, -1]), Ragged.of([[2], [0, 1], []])
    some = vectors(leaf, attributes, dim=8, seed=0)
    more = vectors(np.append(leaf, 7), Ragged.of([[2], [0, 1], [], [9]]), dim=8, seed=0)
    np.testing.assert_array_equal(some, more[:3])
    assert not np.allclose(some, vectors(leaf, attributes, dim=8, seed=1))


def rewrite_items(logs: Path, change) -> None:
    file = logs / "items" / "part-00000.parquet"
    pq.write_table(change(pq.read_table(file)), file)
    about = json.loads((logs / manifest.NAME).read_text())
    about["shards"]["items/part-00000.parquet"] = {"sha256": manifest.file_sha256(file), "bytes": file.stat().st_size}
    (logs / manifest.NAME).write_text(json.dumps(about))


def test_bad_logs_are_one_line(new_shop, tmp_path):
    shop = new_shop().live()
    logs = shop.write(tmp_path / "logs")

    def said(config=None, path=logs):
        with pytest.raises(InputError) as e:
            build(path, tmp_path / "out", config or InterestsConfig())
        assert "\n" not in str(e.value) and not (tmp_path / "out").exists()
        return str(e.value)

    assert "domains: 'video' is not in these logs; give some of search, rec, shop" in said(InterestsConfig(domains=("video",)))
    assert "no click on a page of rec to train on" in said(InterestsConfig(domains=("rec",)))
    assert "leaves nothing of 1 clicks to train on" in said()
    assert "no manifest.json" in said(path=tmp_path / "nowhere")
    rewrite_items(logs, lambda items: pa.concat_tables([items, items]))
    assert "duplicate item_id 0; keep one of them" in said()


def test_a_folder_that_is_there_is_left_alone(new_shop, tmp_path):
    logs = new_shop().live().write(tmp_path / "logs")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    with pytest.raises(InputError, match="out: already exists; remove it or give another"):
        build(logs, tmp_path / "out", InterestsConfig(validation_share=0.0))
    assert (tmp_path / "out/mine").read_text() == "x"


@pytest.mark.parametrize("name, value", [("history_len", 0), ("max_shown", -1), ("seed", -1), ("validation_share", 1.0)])
def test_a_configuration_out_of_range_is_refused(name, value):
    with pytest.raises(InputError, match=name):
        InterestsConfig(**{name: value})
