"""Hand-made logs for the tests: a shop that is told, request by request, what happened in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unisc.data import manifest
from unisc.data.schema import CAUSES, LOG_TABLES, ORACLE, SAMPLES

DAY = 86400
TEST_START = 10 * DAY


@dataclass
class Shop:
    """Collects log rows; users and items exist as soon as they are mentioned."""

    domains: tuple[str, ...] = ("search", "rec", "shop")
    test_start: int = TEST_START
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in LOG_TABLES})
    items: dict[int, dict[str, Any]] = field(default_factory=dict)
    queries: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    last_user: int = 0

    def user(self) -> int:
        """Return a user nobody has been before."""
        self.last_user += 1
        return self.last_user - 1

    def item(
        self, item_id: int, categories: tuple[int, int, int] = (0, 0, 0), brand: int = 0, title: str = "", **more: Any
    ) -> int:
        self.items[item_id] = {
            "category_1": categories[0], "category_2": categories[1], "category_3": categories[2], "brand_id": brand,
            "title": title, **more,
        }  # fmt: skip
        return item_id

    def query(self, text: str, category_3: int | None = None) -> int:
        self.queries.append({"text": text, "category_3": category_3, "brand_id": None, "attribute_ids": []})
        return len(self.queries) - 1

    def request(
        self,
        user: int,
        ts: int,
        shown: Sequence[int],
        hidden: Sequence[int] = (),
        domain: str = "search",
        query: int | None = None,
    ) -> int:
        request = len(self.rows["requests"])
        self.last_user = max(self.last_user, user + 1)
        self.rows["requests"].append(
            {"request_id": request, "user_id": user, "ts": ts, "domain": domain, "query_id": query, "scene": 1, "shop_id": None}
        )
        for rank, item in enumerate([*shown, *hidden]):
            exposed = rank < len(shown)
            position = rank if exposed else None
            row = {"request_id": request, "item_id": item, "rank": rank, "exposed": exposed, "position": position}
            self.rows["candidates"].append({**row, "price": 1.0 + rank, "propensity": 0.5})
        return request

    def event(
        self, user: int, item: int, ts: int, domain: str = "search", kind: str = "click", request: int | None = None
    ) -> None:
        self.rows["events"].append(
            {"user_id": user, "item_id": item, "ts": ts, "domain": domain, "kind": kind, "request_id": request}
        )

    def tables(self) -> dict[str, pa.Table]:
        """Return the log tables; a click in each split is added where nobody made one."""
        mentioned = [r["item_id"] for name in ("candidates", "events") for r in self.rows[name]]
        for i in range(max([*mentioned, *self.items], default=0) + 1):
            if i not in self.items:
                self.item(i)
        plain = {"shop_id": 0, "attribute_ids": [], "price": 1.0, "created_ts": 0}
        self.rows["items"] = [{"item_id": i, **plain, **self.items[i]} for i in sorted(self.items)]
        self.rows["users"] = [{"user_id": u, "segment": 0, "budget": 0} for u in range(self.last_user)]
        self.rows["queries"] = [
            {"query_id": i, **q} for i, q in enumerate(self.queries or [{"text": "thing", "attribute_ids": []}])
        ]
        made = {}
        for name, schema in LOG_TABLES.items():
            table = pa.Table.from_pylist(self.rows[name], schema=schema.columns)
            made[name] = table.drop_columns(list(self.dropped.get(name, ())))
        return made

    def live(self) -> "Shop":
        """Add one user with a click in each split, which every build needs."""
        user = self.user()
        for ts in (1000, self.test_start + 1000):
            request = self.request(user, ts, shown=[0])
            self.event(user, 0, ts + 1, request=request)
        return self

    def write(self, directory: Path, **replaced: pa.Table) -> Path:
        """Write the logs; `replaced` tables stand in for the shop's own."""
        tables = {**self.tables(), **replaced}
        for name, table in tables.items():
            (directory / name).mkdir(parents=True)
            pq.write_table(table, directory / name / "part-00000.parquet")
        counts = {name: len(table) for name, table in tables.items()}
        manifest.write(directory, kind="logs", config={}, counts=counts, domains=list(self.domains), test_start=self.test_start)
        return directory


def _read_samples(directory: Path, split: str = "train") -> dict[int, dict[str, Any]]:
    """Requests by id; `candidates` maps item_id to a dict of that candidate's columns, in list order."""
    table = pq.read_table(directory / split)
    assert table.schema.equals(SAMPLES)
    lists = [f.name for f in SAMPLES if pa.types.is_list(f.type) and not f.name.startswith("history_")]
    requests = {}
    for row in table.to_pylist():
        flat = [dict(zip(lists, entry, strict=True)) for entry in zip(*(row.pop(c) for c in lists), strict=True)]
        requests[row["request_id"]] = {**row, "candidates": {c["item_id"]: c for c in flat}}
    return requests


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture(scope="session")
def make_shop() -> type[Shop]:
    return Shop


@pytest.fixture(scope="session")
def read_samples():
    return _read_samples


@pytest.fixture(scope="session")
def busy_logs(tmp_path_factory, make_shop):
    """A few hundred requests in three domains over eleven days, the last of them the test day; with a truth, made up."""
    rng = np.random.default_rng(0)
    shop = make_shop()
    for i in range(40):
        shop.item(i, categories=(0, i % 4 // 2, i % 4), brand=i % 3, title=f"word{i % 5} thing{i % 7}")
    queries = [shop.query(f"word{i} thing{i}", category_3=i % 4 if i % 2 else None) for i in range(5)]
    users, causes = [shop.user() for _ in range(25)], []
    for _ in range(330):
        user, ts = int(rng.choice(users)), int(rng.integers(0, 11 * DAY))
        domain = str(rng.choice(shop.domains))
        items = rng.permutation(40)[:14].tolist()
        query = int(rng.choice(queries)) if domain == "search" else None
        request = shop.request(user, ts, shown=items[:4], hidden=items[4:], domain=domain, query=query)
        for item in items[:4]:
            if rng.random() < 0.3:
                shop.event(user, item, ts + int(rng.integers(1, 99)), domain, request=request)
                if rng.random() < 0.4:
                    later = ts + int(rng.integers(99, DAY))
                    shop.event(user, item, later, "shop", "purchase")
                    causes.append((user, item, later, "shop", "purchase", request))
        if rng.random() < 0.3:
            shop.event(user, int(rng.integers(40)), ts + 7, "rec", str(rng.choice(["click", "cart", "purchase"])))
    n = len(shop.rows["candidates"])
    truth = {name: [row[name] for row in shop.rows["candidates"]] for name in ("request_id", "item_id")}
    truth |= {name: rng.random(n, np.float32) for name in ("p_click", "p_purchase", "p_click_top")}
    return shop.write(
        tmp_path_factory.mktemp("busy") / "logs",
        oracle=pa.table(truth, schema=ORACLE.columns),
        causes=pa.table([list(column) for column in zip(*causes, strict=True)], schema=CAUSES.columns),
    )
