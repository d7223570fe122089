"""Writes small samples directories for tests: whatever a test does not set is drawn at random from a seed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unisc.data import manifest
from unisc.data.schema import ITEMS, QUERIES, SAMPLES, USERS

DOMAINS = ("search", "rec", "shop")
ATTRIBUTES = pa.list_(pa.int32())


def request(
    request_id=0, user_id=0, ts=1_000_000, domain="search", query_id=None, scene=None, shop_id=None, history=(), **lists
):
    """One row of SAMPLES; `history` holds (item, kind, domain, age) and `lists` the candidates' columns, item_id at least."""
    n = len(lists["item_id"])
    exposed = lists.get("exposed", [True] * n)
    shown = iter(range(n))
    defaults = {
        "exposed": exposed,
        "position": [next(shown) if e else -1 for e in exposed],
        "rank": list(range(n)),
        "price": [float("nan")] * n,
        "propensity": [float("nan")] * n,
        "probability": [1.0] * n,
        "touches": [0] * n,
        "touch_age": [-1] * n,
        "click": [0] * n,
        "purchase": [0] * n,
    }
    for task in ("click", "purchase"):
        labels = lists.get(task, defaults[task])
        defaults[f"{task}_level"] = list(labels)
        defaults[f"{task}_origin"] = [0 if y else -1 for y in labels]
        defaults[f"{task}_ts"] = [ts + 1 if y else -1 for y in labels]
        defaults[f"{task}_weight"] = [1.0] * n
    row = {"request_id": request_id, "user_id": user_id, "ts": ts, "domain": domain, "origin": "logged", "query_id": query_id}
    row |= {"query_level": -1 if query_id is None else 0, "scene": scene, "shop_id": shop_id}
    for name, values in zip(
        ("item_id", "kind", "domain", "age"), zip(*history, strict=True) if history else [()] * 4, strict=True
    ):
        row[f"history_{name}"] = list(values)
    return row | defaults | lists


def random_requests(num_requests, *, seed, num_items=50, num_users=20, num_queries=10, list_len=(5, 12), shown=4, first_id=0):
    """Requests whose clicks depend on item, user and position, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    taste = np.random.default_rng(99).normal(size=(num_items,))
    out = []
    for q in range(num_requests):
        n = int(rng.integers(*list_len))
        items = rng.choice(num_items, n, replace=False)
        position = np.where(np.arange(n) < shown, np.arange(n), -1)
        logit = 1.5 * taste[items] - 0.3 * np.maximum(position, 0) - 0.5
        click = (rng.random(n) < 1 / (1 + np.exp(-logit))) & (position >= 0)
        touches = rng.integers(0, 3, n)
        history = sorted((int(a), int(i)) for a, i in zip(rng.integers(1, 9999, 6), rng.integers(0, num_items, 6), strict=True))
        out.append(
            request(
                request_id=first_id + q,
                user_id=int(rng.integers(num_users)),
                ts=1_000_000 + 60 * q,
                query_id=int(rng.integers(num_queries)),
                scene=int(rng.integers(3)),
                history=[(i, int(rng.integers(3)), int(rng.integers(3)), a) for a, i in history[: int(rng.integers(0, 6))]],
                item_id=items.tolist(),
                exposed=(position >= 0).tolist(),
                position=position.tolist(),
                price=rng.uniform(1, 100, n).tolist(),
                touches=touches.tolist(),
                touch_age=np.where(touches > 0, rng.integers(1, 9999, n), -1).tolist(),
                click=click.astype(int).tolist(),
                purchase=(click & (rng.random(n) < 0.3)).astype(int).tolist(),
            )
        )
    return out


def random_tables(*, num_items=50, num_users=20, num_queries=10, seed=0):
    """Item, user and query tables with every optional column."""
    rng = np.random.default_rng(seed)
    codes = {"category_1": 3, "category_2": 6, "category_3": 9, "brand_id": 7, "shop_id": 5}
    items = {"item_id": np.arange(num_items, dtype=np.int32)}
    items |= {name: rng.integers(0, size, num_items).astype(np.int32) for name, size in codes.items()}
    items["attribute_ids"] = pa.array([rng.integers(0, 20, rng.integers(0, 5)).tolist() for _ in range(num_items)], ATTRIBUTES)
    items["price"] = rng.uniform(1, 100, num_items).astype(np.float32)
    users = {name: rng.integers(0, 4, num_users).astype(np.int32) for name in ("segment", "budget")}
    queries = {
        "query_id": np.arange(num_queries, dtype=np.int32),
        "text": [f"query {i}" for i in range(num_queries)],
        "category_3": pa.array([i % 9 if i % 2 else None for i in range(num_queries)], pa.int32()),
        "brand_id": pa.array([i % 7 if i % 3 else None for i in range(num_queries)], pa.int32()),
        "attribute_ids": pa.array([[i % 20] for i in range(num_queries)], ATTRIBUTES),
    }
    return items, {"user_id": np.arange(num_users, dtype=np.int32)} | users, queries


def write_samples(directory: Path, *, train, test, items=None, users=None, queries=None, num_shards=2, schema=SAMPLES) -> Path:
    """Write a complete samples directory; a table not given is a random one."""
    defaults = random_tables()
    for declared, given, default in zip((ITEMS, USERS, QUERIES), (items, users, queries), defaults, strict=True):
        (directory / declared.name).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(default if given is None else given), directory / declared.name / "part-00000.parquet")
    for split, rows in (("train", train), ("test", test)):
        (directory / split).mkdir(exist_ok=True)
        for shard in range(num_shards):
            part = rows[shard * len(rows) // num_shards : (shard + 1) * len(rows) // num_shards]
            pq.write_table(pa.Table.from_pylist(part, schema=schema), directory / split / f"part-{shard:05d}.parquet")
    manifest.write(directory, kind="samples", config={}, counts={}, domains=list(DOMAINS), composition="exposed", test_start=0)
    return directory
