"""Declared schemas of the log tables and of the samples made from them.

Log tables say what a shop recorded; samples are list-wise: one row a request, its user, query and history stored once, its
candidates as parallel lists. Every table has exactly one schema here, and every reader and writer takes it from here.
"""

from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 2

KINDS = ("click", "cart", "purchase")
"""Event kinds, in the order of their integer codes."""

COMPOSITIONS = ("exposed", "unexposed", "attributed", "searchified")
"""Sample compositions of ES3; each adds to the one before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSchema:
    """A log table: its columns, which of them may be absent, which may hold nulls, and its primary key."""

    name: str
    columns: pa.Schema
    optional: frozenset[str] = frozenset()
    nullable: frozenset[str] = frozenset()
    key: tuple[str, ...] = ()


_IDS = pa.list_(pa.int32())

ITEMS = TableSchema(
    name="items",
    columns=pa.schema(
        [
            ("item_id", pa.int32()),
            ("category_1", pa.int32()),
            ("category_2", pa.int32()),
            ("category_3", pa.int32()),
            ("brand_id", pa.int32()),
            ("shop_id", pa.int32()),
            ("attribute_ids", _IDS),
            ("price", pa.float32()),
            ("title", pa.string()),
            ("created_ts", pa.int64()),
        ]
    ),
    optional=frozenset(
        {"category_1", "category_2", "category_3", "brand_id", "shop_id", "attribute_ids", "price", "title", "created_ts"}
    ),
    key=("item_id",),
)
"""Ids are dense integers from 0; `price` is in currency units; `created_ts` in unix seconds."""

USERS = TableSchema(
    name="users",
    columns=pa.schema([("user_id", pa.int32()), ("segment", pa.int32()), ("budget", pa.int32())]),
    optional=frozenset({"segment", "budget"}),
    key=("user_id",),
)
"""`segment` is an observable persona, `budget` an observable spending level."""

QUERIES = TableSchema(
    name="queries",
    columns=pa.schema(
        [
            ("query_id", pa.int32()),
            ("text", pa.string()),
            ("category_3", pa.int32()),
            ("brand_id", pa.int32()),
            ("attribute_ids", _IDS),
        ]
    ),
    optional=frozenset({"category_3", "brand_id", "attribute_ids"}),
    nullable=frozenset({"category_3", "brand_id"}),
    key=("query_id",),
)
"""The columns after `text` are what a query classifier reads off the text; null where the text does not say."""

REQUESTS = TableSchema(
    name="requests",
    columns=pa.schema(
        [
            ("request_id", pa.int64()),
            ("user_id", pa.int32()),
            ("ts", pa.int64()),
            ("domain", pa.string()),
            ("query_id", pa.int32()),
            ("scene", pa.int32()),
            ("shop_id", pa.int32()),
        ]
    ),
    optional=frozenset({"query_id", "scene", "shop_id"}),
    nullable=frozenset({"query_id", "scene", "shop_id"}),
    key=("request_id",),
)
"""`ts` in unix seconds; `query_id` null outside search; `scene` a small context code; `shop_id` the shop of a shop page."""

CANDIDATES = TableSchema(
    name="candidates",
    columns=pa.schema(
        [
            ("request_id", pa.int64()),
            ("item_id", pa.int32()),
            ("rank", pa.int16()),
            ("exposed", pa.bool_()),
            ("position", pa.int16()),
            ("price", pa.float32()),
            ("propensity", pa.float32()),
        ]
    ),
    optional=frozenset({"position", "price", "propensity"}),
    nullable=frozenset({"position", "price", "propensity"}),
    key=("request_id", "item_id"),
)
"""`rank` is the pre-ranker's order from 0; `position` the shown slot from 0, null if not exposed; `price` as shown.

`propensity` is the logging policy's probability of showing this item in this slot, where a log states it.
"""

EVENTS = TableSchema(
    name="events",
    columns=pa.schema(
        [
            ("user_id", pa.int32()),
            ("item_id", pa.int32()),
            ("ts", pa.int64()),
            ("domain", pa.string()),
            ("kind", pa.string()),
            ("request_id", pa.int64()),
        ]
    ),
    optional=frozenset({"request_id"}),
    nullable=frozenset({"request_id"}),
)
"""`kind` is one of KINDS; `request_id` the request it happened on, null if none."""

ORACLE = TableSchema(
    name="oracle",
    columns=pa.schema(
        [
            ("request_id", pa.int64()),
            ("item_id", pa.int32()),
            ("p_click", pa.float32()),
            ("p_purchase", pa.float32()),
            ("p_click_top", pa.float32()),
        ]
    ),
    key=("request_id", "item_id"),
)
"""True probabilities, known for a synthetic shop only; no training path may read them.

`p_click` at the slot it was shown in (for an unexposed candidate, as if in the top slot), `p_purchase` of a purchase following
this impression wherever it finishes, `p_click_top` as if shown in the top slot.
"""

CAUSES = TableSchema(
    name="causes",
    columns=EVENTS.columns,  # `request_id` is the cause here
)
"""The request that led to each event which happened on none, known for a synthetic shop only; for judging attributed labels."""

LOG_TABLES = {t.name: t for t in (ITEMS, USERS, QUERIES, REQUESTS, CANDIDATES, EVENTS)}
"""The tables every log directory must hold; a directory `<name>/part-*.parquet` each. A synthetic shop adds `oracle`
and `causes`."""

_I8, _I16, _I32, _I64, _F32 = (pa.list_(t) for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32()))

SAMPLES = pa.schema(
    [
        ("request_id", pa.int64()),  # a searchified request has a negative one
        ("user_id", pa.int32()),
        ("ts", pa.int64()),
        ("domain", pa.string()),
        ("origin", pa.string()),  # "logged" or "searchified"
        ("query_id", pa.int32()),  # null where there is none
        ("query_level", pa.int8()),  # 0 logged, 1 the user's own past query, 2 co-occurring, 3 nearest by text; -1 none
        ("scene", pa.int32()),
        ("shop_id", pa.int32()),
        # one entry an earlier event of this user, any domain, most recent first
        ("history_item_id", _I32),
        ("history_kind", _I8),  # index into KINDS
        ("history_domain", _I8),  # index into the manifest's domains
        ("history_age", _I32),  # seconds before the request, at least 1
        # one entry a candidate
        ("item_id", _I32),
        ("exposed", pa.list_(pa.bool_())),
        ("position", _I16),  # -1 if not exposed
        ("rank", _I16),
        ("price", _F32),  # NaN if unknown
        ("propensity", _F32),  # the logging policy's probability of this item in this slot; NaN if the log does not say
        ("probability", _F32),  # of this candidate being drawn into the sample
        ("touches", _I16),  # earlier events of this user on this item
        ("touch_age", _I32),  # seconds since the last of them, -1 if none
        ("click", _I8),  # 0 or 1
        ("click_level", _I8),  # 0 none, 1 in the request itself, 2.. preference order of the attribution rule
        ("click_origin", _I8),  # domain index of the event, -1 if none
        ("click_ts", _I64),  # of the event, -1 if none
        ("click_weight", _F32),  # confidence in the label, 1 unless the build was asked to discount
        ("purchase", _I8),
        ("purchase_level", _I8),
        ("purchase_origin", _I8),
        ("purchase_ts", _I64),
        ("purchase_weight", _F32),
    ]
)
"""One row a request: the list-wise sample (design of ES3, UniScale section 2).

Samples may hold further lists of float32, one entry a candidate, whose names begin with NUMBER: each is a number that the maker
of the lists knew of the candidate, brought to about unit size, such as the score that retrieved it.
"""

NUMBER = "number_"
