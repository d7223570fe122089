"""The numbers of the quality report against the same questions asked of the logs and samples in SQL."""

import duckdb
import pytest

from data_gen.es3 import ES3Config, build
from data_gen.marketplace.config import MarketplaceConfig
from data_gen.marketplace.generate import generate

HOUR = 3600


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("quality")
    logs = root / "logs"
    config = MarketplaceConfig(seed=3, preset="default", requests=6000, users=300, items=10_000)
    generate(config, logs, workers=2)
    made = build(logs, root / "out", ES3Config(composition="searchified"), threads=2)
    db = duckdb.connect()
    for name in ("requests", "candidates", "events", "oracle", "causes", "items", "queries"):
        db.execute(f"CREATE VIEW {name} AS SELECT * FROM '{logs}/{name}/*.parquet'")
    lists = (
        "item_id",
        "exposed",
        "click_level",
        "click_origin",
        "click_ts",
        "purchase_level",
        "purchase_origin",
        "purchase_ts",
    )
    db.execute(
        f"CREATE TABLE samples AS SELECT request_id, user_id, origin, query_id, query_level, "
        f"{', '.join(f'unnest({name}) AS {name}' for name in lists)} FROM '{root}/out/train/*.parquet'"
    )
    return db, made["quality"], made["test_start"]


def rows(db, sql):
    return db.execute(sql).fetchall()


def test_volumes_and_labels_are_those_of_the_samples(shop):
    db, quality, _ = shop
    (found,) = rows(
        db,
        "SELECT count(DISTINCT request_id), count(*), count(*) FILTER (click_level > 0), count(*) FILTER (purchase_level > 0) "
        "FROM samples",
    )
    assert tuple(quality["volumes"]["searchified"].values()) == found
    for kind in ("click", "purchase"):
        counted = rows(
            db, f"SELECT {kind}_level, {kind}_origin, count(*) FROM samples WHERE {kind}_level > 0 GROUP BY ALL ORDER BY ALL"
        )
        names = ("search", "rec", "shop")
        assert quality["labels"][kind] == {f"level {level}, {names[o]}": n for level, o, n in counted}
    assert len(quality["labels"]["click"]) >= 4


def test_events_are_conserved(shop):
    db, quality, _ = shop
    for kind in ("click", "purchase"):
        (outside,) = rows(
            db,
            f"SELECT count(*) FROM events e LEFT JOIN requests r USING (request_id) WHERE kind = '{kind}' "
            "AND (r.domain IS NULL OR r.domain <> 'search' OR e.domain <> 'search')",
        )[0]
        fates = dict(quality["attribution"][kind])
        assert fates.pop("events") == outside == sum(fates.values())
        by_domain = quality["attribution_by_domain"][kind].values()
        assert {name: sum(d[name] for d in by_domain) for name in fates} == fates
    fates = {k: v for k, v in quality["searchification"].items() if isinstance(v, int)}
    (clicks,) = rows(db, "SELECT count(*) FROM events WHERE kind = 'click' AND domain <> 'search'")[0]
    assert fates.pop("clicks") == clicks == sum(fates.values())


def test_labels_of_purchases_are_right_where_their_request_led_to_the_event(shop):
    db, quality, test_start = shop
    right = rows(
        db,
        "SELECT s.purchase_level, s.purchase_origin, count(*), count(c.request_id) FROM samples s LEFT JOIN causes c "
        "ON s.user_id = c.user_id AND s.item_id = c.item_id AND s.purchase_ts = c.ts AND s.request_id = c.request_id "
        "AND c.domain = ['search', 'rec', 'shop'][s.purchase_origin + 1] "
        "WHERE s.origin = 'logged' AND s.purchase_level > 1 GROUP BY ALL ORDER BY ALL",
    )
    caused = dict(
        rows(
            db,
            f"SELECT c.domain, count(*) FROM causes c JOIN requests r USING (request_id) WHERE c.ts < {test_start} "
            "AND r.domain = 'search' GROUP BY ALL",
        )
    )
    found = quality["oracle"]["purchase"]
    assert len(right) >= 4
    for level, origin, labels, correct in right:
        name = ("search", "rec", "shop")[origin]
        row = found[f"level {level}, {name}"]
        assert (row["labels"], row["right"], row["caused"]) == (labels, correct, caused[name])
        assert row["precision"] == pytest.approx(correct / labels, abs=1e-4)
        assert row["recall"] == pytest.approx(correct / caused[name], abs=1e-4)
    assert sum(correct for *_, correct in right) > 0


def test_clicks_elsewhere_are_judged_by_the_true_interest(shop):
    db, quality, test_start = shop
    joined = "FROM samples s JOIN oracle o USING (request_id, item_id) WHERE s.origin = 'logged'"
    means = {
        (level, origin): (n, p)
        for level, origin, n, p in rows(
            db, f"SELECT click_level, click_origin, count(*), avg(p_click_top) {joined} AND click_level > 0 GROUP BY ALL"
        )
    }
    unlabelled = dict(
        rows(
            db,
            "SELECT c.exposed, avg(o.p_click_top) FROM candidates c JOIN oracle o USING (request_id, item_id) "
            "JOIN requests r USING (request_id) LEFT JOIN (SELECT * FROM samples WHERE click_level > 0) s "
            f"USING (request_id, item_id) WHERE r.domain = 'search' AND r.ts < {test_start} AND s.item_id IS NULL GROUP BY 1",
        )
    )
    found = quality["oracle"]["click"]
    for exposed, name in ((True, "exposed"), (False, "unexposed")):
        assert found["unlabelled"][name]["mean_probability"] == pytest.approx(unlabelled[exposed], rel=1e-4)
    own = means[1, 0][1]
    for (level, origin), (n, mean) in means.items():
        row = found[f"level {level}, {('search', 'rec', 'shop')[origin]}"]
        assert row["labels"] == n
        assert row["mean_probability"] == pytest.approx(mean, rel=1e-4)
        if level > 1:
            rest = unlabelled[level == 2]
            assert row["precision"] == pytest.approx((mean - rest) / (own - rest), abs=2e-3)


def test_queries_of_pseudo_requests_name_the_category_of_the_item(shop):
    db, quality, _ = shop
    same = rows(
        db,
        "SELECT query_level, count(*), avg((i.category_3 = q.category_3)::INT) FROM samples s JOIN items i USING (item_id) "
        "JOIN queries q ON s.query_id = q.query_id WHERE s.origin = 'searchified' AND s.click_level > 0 "
        "AND q.category_3 IS NOT NULL GROUP BY ALL",
    )
    names = {1: "own past query", 2: "co-occurring query", 3: "nearest query"}
    for level, n, share in same:
        row = quality["searchification"]["query_level"][names[level]]
        assert row["category_known"] == n
        assert row["category_same"] == pytest.approx(share, abs=1e-4)
    assert {level for level, *_ in same} == {1, 2, 3}
