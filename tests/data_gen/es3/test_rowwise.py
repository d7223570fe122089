"""The row-wise layout holds what the list-wise one holds, and the exported labels are the labels."""

import duckdb
import pyarrow.parquet as pq
import pytest

from data_gen.es3 import ES3Config, build
from data_gen.es3.__main__ import main
from data_gen.es3.rowwise import LABELS, SAMPLE_ROWS, export_labels
from unisc.data import manifest
from unisc.errors import InputError


@pytest.fixture(scope="module")
def built(busy_logs, tmp_path_factory):
    root = tmp_path_factory.mktemp("rows")
    config = ES3Config(composition="searchified")
    build(busy_logs, root / "lists", config, threads=1)
    build(busy_logs, root / "rows", config, rows=True, threads=1)
    return root


def test_rows_are_the_lists_unrolled(built):
    flat = pq.read_table(built / "rows" / "train")
    assert flat.schema.equals(SAMPLE_ROWS)
    expected = []
    lists = [n for n in SAMPLE_ROWS.names if n not in ("history_item_id",)]
    for row in pq.read_table(built / "lists" / "train").to_pylist():
        for i in range(len(row["item_id"])):
            unrolled = {n: row[n] for n in SAMPLE_ROWS.names}
            for n in lists:
                if isinstance(row[n], list) and not n.startswith("history_"):
                    unrolled[n] = row[n][i]
            expected.append(unrolled)
    assert repr(flat.to_pylist()) == repr(expected)
    assert manifest.read(built / "rows", kind="rows")["counts"] == manifest.read(built / "lists", kind="samples")["counts"]


def test_row_wise_samples_are_refused_where_lists_are_needed(built):
    with pytest.raises(InputError, match="holds rows, but samples are needed"):
        export_labels(built / "rows", built / "no.parquet")


def test_exported_labels_agree_with_the_events_by_sql(built, busy_logs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "labels.parquet"
    monkeypatch.setattr("sys.argv", ["es3", "export", str(built / "lists"), "--out", str(out)])
    main()
    assert pq.read_schema(out).equals(LABELS)
    db = duckdb.connect()
    db.execute(f"CREATE VIEW l AS SELECT * FROM '{out}'")
    db.execute(f"CREATE VIEW e AS SELECT * FROM '{busy_logs}/events/*.parquet'")
    db.execute(f"CREATE VIEW r AS SELECT * FROM '{busy_logs}/requests/*.parquet'")

    def one(sql):
        return db.execute(sql).fetchone()[0]

    positive = one("SELECT count(*) FROM l WHERE label = 1")
    assert positive > 100
    assert one("SELECT count(*) FROM l") == 2 * one("SELECT count(DISTINCT (split, request_id, item_id)) FROM l")
    # Every positive names an event that is in the logs, after the request and inside its window; every other names none.
    named = """FROM l JOIN e ON e.user_id = l.user_id AND e.item_id = l.item_id AND e.kind = l.kind AND e.domain = l.origin
               AND e.ts = l.source_event_ts WHERE l.label = 1"""
    assert one(f"SELECT count(DISTINCT (split, l.request_id, l.item_id, l.kind)) {named}") == positive
    assert one("SELECT count(*) FROM l WHERE (label = 0) != (level = 0 AND origin IS NULL AND source_event_ts IS NULL)") == 0
    late = """FROM l JOIN r USING (request_id) WHERE level > 1
              AND source_event_ts - r.ts NOT BETWEEN 1 AND CASE l.kind WHEN 'click' THEN 86400 ELSE 259200 END"""
    assert one(f"SELECT count(*) {late}") == 0
    # A page's own label is an event of that page.
    page = """FROM l JOIN e ON e.request_id = l.request_id AND e.item_id = l.item_id AND e.kind = l.kind
              AND e.ts = l.source_event_ts WHERE l.level = 1 AND l.request_id >= 0"""
    assert one(f"SELECT count(DISTINCT (l.request_id, l.item_id, l.kind)) {page}") == one(
        "SELECT count(*) FROM l WHERE level = 1 AND request_id >= 0"
    )
    with pytest.raises(InputError, match="already exists"):
        export_labels(built / "lists", out)
