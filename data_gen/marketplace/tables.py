"""Turns and catalogue as rows of the log tables, written to Parquet as they come."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.marketplace.config import DOMAINS, REC, SEARCH, SHOP
from data_gen.marketplace.shard import Turn
from data_gen.marketplace.world import World
from unisc.data.schema import CANDIDATES, CAUSES, EVENTS, ITEMS, KINDS, ORACLE, QUERIES, REQUESTS, USERS, TableSchema

SHARDED = (REQUESTS, CANDIDATES, EVENTS, ORACLE, CAUSES)
"""Tables with one part file a shard; the others are written once."""
_SPLIT_FLOATS = ["p_click", "p_purchase", "p_click_top"]
"""Columns with hardly a value twice: a dictionary of them would be larger than they are."""
_UNKNOWN = {"propensity"}
"""Optional columns that the shop's logs leave out: its ranker is deterministic, so no slot was drawn with a probability."""


class TableWriter:
    """One part file of one table; row groups are written as they come."""

    def __init__(self, directory: Path, schema: TableSchema, part: int) -> None:
        folder = directory / schema.name
        folder.mkdir(exist_ok=True)
        self.schema = pa.schema([field for field in schema.columns if field.name not in _UNKNOWN])
        self.rows = 0
        split = [n for n in _SPLIT_FLOATS if n in self.schema.names]
        self._file = pq.ParquetWriter(
            folder / f"part-{part:05d}.parquet",
            self.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[n for n in self.schema.names if n not in split],
            use_byte_stream_split=split,
        )

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def write(self, columns: dict[str, pa.Array]) -> None:
        table = pa.Table.from_arrays(
            [columns[n].cast(t) for n, t in zip(self.schema.names, self.schema.types, strict=True)], schema=self.schema
        )
        self._file.write_table(table, row_group_size=max(1, table.num_rows))
        self.rows += table.num_rows


def sharded_writers(stack: ExitStack, directory: Path, part: int) -> dict[str, TableWriter]:
    """Open this part's file of every sharded table; `stack` closes them."""
    return {schema.name: stack.enter_context(TableWriter(directory, schema, part)) for schema in SHARDED}


def write_turns(world: World, writers: dict[str, TableWriter], turns: list[Turn]) -> None:
    """Append the rows of some turns to every sharded table."""
    if not turns:
        return

    def all_of(name: str) -> np.ndarray:
        return np.concatenate([getattr(t, name) for t in turns])

    names = pa.array(DOMAINS)
    domain, request_id = all_of("domain"), all_of("request_id")
    writers["requests"].write(
        {
            "request_id": pa.array(request_id),
            "user_id": pa.array(all_of("user_id")),
            "ts": pa.array(all_of("ts")),
            "domain": names.take(pa.array(domain)),
            "query_id": pa.array(all_of("query"), mask=domain != SEARCH),
            "scene": pa.array(all_of("scene"), mask=domain != REC),
            "shop_id": pa.array(all_of("shop"), mask=domain != SHOP),
        }
    )
    of_candidate = pa.array(np.repeat(request_id, all_of("sizes")))
    item, position = all_of("item"), all_of("position")
    items = pa.array(item)
    writers["candidates"].write(
        {
            "request_id": of_candidate,
            "item_id": items,
            "rank": pa.array(all_of("rank").astype(np.int16)),
            "exposed": pa.array(position >= 0),
            "position": pa.array(position, mask=position < 0),
            "price": pa.array(world.price.take(item)),
        }
    )
    floats = {name: pa.array(all_of(name)) for name in _SPLIT_FLOATS}
    writers["oracle"].write({"request_id": of_candidate, "item_id": items, **floats})

    here = all_of("event_here")
    of_event = np.concatenate([t.request_id[t.event_request] for t in turns])
    events = {
        "user_id": pa.array(np.concatenate([t.user_id[t.event_request] for t in turns])),
        "item_id": pa.array(all_of("event_item")),
        "ts": pa.array(all_of("event_ts")),
        "domain": names.take(pa.array(all_of("event_domain"))),
        "kind": pa.array(KINDS).take(pa.array(all_of("event_kind"))),
    }
    writers["events"].write({**events, "request_id": pa.array(of_event, mask=~here)})
    elsewhere = pa.array(np.flatnonzero(~here))
    writers["causes"].write({**{n: c.take(elsewhere) for n, c in events.items()}, "request_id": pa.array(of_event[~here])})


def _attribute_lists(attributes: np.ndarray, pad: int) -> pa.Array:
    """Return rows of attribute ids (n, k) as lists without their padding."""
    said = attributes != pad
    offsets = np.concatenate([[0], np.cumsum(said.sum(axis=1))])
    return pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), pa.array(attributes[said], type=pa.int32()))


def write_catalogue(world: World, directory: Path) -> dict[str, int]:
    """Write items, users and queries; return their rows."""
    c = world.config
    tables: list[tuple[TableSchema, dict[str, pa.Array]]] = [
        (
            ITEMS,
            {
                "item_id": pa.array(np.arange(c.items)),
                "category_1": pa.array(world.categories[0]),
                "category_2": pa.array(world.categories[1]),
                "category_3": pa.array(world.leaf),
                "brand_id": pa.array(world.brand),
                "shop_id": pa.array(world.shop),
                "attribute_ids": _attribute_lists(world.attributes.T, c.attributes),
                "price": pa.array(world.price),
                "title": pa.array(world.titles),
                "created_ts": pa.array(world.created_ts),
            },
        ),
        (
            USERS,
            {
                "user_id": pa.array(np.arange(c.users)),
                "segment": pa.array(world.segment),
                "budget": pa.array(world.budget),
            },
        ),
        (
            QUERIES,
            {
                "query_id": pa.array(np.arange(c.queries)),
                "text": pa.array(world.query_text),
                "category_3": pa.array(world.query_leaf, mask=~world.query_says_leaf),
                "brand_id": pa.array(world.query_brand, mask=world.query_brand < 0),
                "attribute_ids": _attribute_lists(world.query_attributes, c.attributes),
            },
        ),
    ]
    for schema, columns in tables:
        with TableWriter(directory, schema, 0) as writer:
            writer.write(columns)
    return {"items": c.items, "users": c.users, "queries": c.queries}
