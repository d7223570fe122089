"""Small valid logs, about to be written."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unisc.data import manifest
from unisc.data.schema import KINDS, LOG_TABLES, ORACLE

DAY = 86400
DOMAINS = ("search", "rec", "shop")
TEST_START = 3 * DAY
FACTS = ("requests", "candidates", "events")
TABLES = {**LOG_TABLES, "oracle": ORACLE}
NUM_ITEMS, NUM_USERS, NUM_QUERIES = 12, 6, 4


@dataclass
class Draft:
    """Logs about to be written: parts of each table, and what is done to the files afterwards."""

    parts: dict[str, list[pa.Table]]
    names: dict[str, list[str]]
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    spoil: list[Callable[[Path], None]] = field(default_factory=list)  # before the manifest is written, which then fits
    unfit: list[Callable[[Path], None]] = field(default_factory=list)  # after it
    refusals: list[str] = field(default_factory=list)
    may_pass: bool = False
    done: list[str] = field(default_factory=list)

    def whole(self, name: str) -> pa.Table:
        """Rows of a table as declared, whatever their spelling in the parts; absent columns are null."""
        schema = TABLES[name].columns
        tables = []
        for part in self.parts[name]:
            columns = [
                part[f.name].cast(f.type) if f.name in part.column_names else pa.nulls(len(part), f.type) for f in schema
            ]
            tables.append(pa.table(columns, schema=schema))
        return pa.concat_tables(tables)

    def write(self, directory: Path) -> Path:
        for name, parts in self.parts.items():
            (directory / name).mkdir(parents=True)
            for file, part in zip(self.names[name], parts, strict=True):
                pq.write_table(part, directory / name / file, **self.options.get(name, {}))
        for spoil in self.spoil:
            spoil(directory)
        described = {"domains": list(DOMAINS), "test_start": TEST_START}
        manifest.write(directory, kind="logs", config={}, counts={}, **described)
        if self.about:
            text = json.loads((directory / manifest.NAME).read_text()) | self.about
            (directory / manifest.NAME).write_text(json.dumps({k: v for k, v in text.items() if v is not KeyError}))
        for unfit in self.unfit:
            unfit(directory)
        return directory


def valid_tables(seed: int) -> dict[str, pa.Table]:
    """A shop of three days and a test day, in which many clicks could go missing before a split has none."""
    rng = random.Random(seed)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for i in range(NUM_ITEMS):
        rows["items"].append(
            {
                "item_id": i, "category_1": 0, "category_2": i % 2, "category_3": i % 3, "brand_id": i % 2, "shop_id": i % 4,
                "attribute_ids": list(range(i % 3)), "price": 1.0 + i, "title": f"w{i % 3} w{i % 5}", "created_ts": i,
            }
        )  # fmt: skip
    rows["users"] = [{"user_id": u, "segment": u % 2, "budget": u % 3} for u in range(NUM_USERS)]
    rows["queries"] = [
        {"query_id": q, "text": f"w{q}", "category_3": q if q < 3 else None, "brand_id": None, "attribute_ids": []}
        for q in range(NUM_QUERIES)
    ]
    for r in range(36):
        domain, user = DOMAINS[r % 2 and rng.randrange(3)], rng.randrange(NUM_USERS)
        ts = rng.randrange(TEST_START) if r % 3 else TEST_START + rng.randrange(DAY)
        query = rng.randrange(NUM_QUERIES) if domain == "search" else None
        rows["requests"].append(
            {"request_id": 7 * r, "user_id": user, "ts": ts, "domain": domain, "query_id": query, "scene": 1, "shop_id": None}
        )
        for rank, item in enumerate(rng.sample(range(NUM_ITEMS), 6)):
            row = {"request_id": 7 * r, "item_id": item, "rank": rank, "exposed": rank < 3, "price": 1.0 + rank}
            rows["candidates"].append({**row, "position": rank if rank < 3 else None, "propensity": 0.5})
            chances = dict.fromkeys(("p_click", "p_purchase", "p_click_top"), 0.25)
            rows["oracle"].append({"request_id": 7 * r, "item_id": item, **chances})
            if rank < 2:
                event = {"user_id": user, "item_id": item, "ts": ts + rng.randrange(1, 99), "domain": domain}
                rows["events"].append({**event, "kind": "click", "request_id": 7 * r})
    for _ in range(30):
        event = {"user_id": rng.randrange(NUM_USERS), "item_id": rng.randrange(NUM_ITEMS), "ts": rng.randrange(4 * DAY)}
        rows["events"].append({**event, "domain": rng.choice(DOMAINS), "kind": rng.choice(KINDS), "request_id": None})
    return {name: pa.Table.from_pylist(rows[name], schema=schema.columns) for name, schema in TABLES.items()}


def draft(tables: dict[str, pa.Table]) -> Draft:
    return Draft(parts={n: [t] for n, t in tables.items()}, names={n: ["part-00000.parquet"] for n in tables})
