"""Which features a samples directory offers, and how each is computed from what was known when the request came in.

Categorical ids are stored one up, so that 0 stands for an absent value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int32

from unisc.data.chunk import Chunk, Ids, Values
from unisc.data.features import FeatureSpec, Field, Group, Level, NumericField, Table
from unisc.data.schema import ITEMS, KINDS, NUMBER, QUERIES, SAMPLES, USERS
from unisc.errors import InputError

ENCODING_VERSION = 4
"""Raised by hand whenever a feature changes its meaning, so that no old column cache is read as the new encoding."""

TASKS = ("click", "purchase")
MAX_ATTRIBUTES = 3
MAX_POSITION = 32
MAX_TOUCH_RANK = 8
NUM_PRICE_BUCKETS = 32
NUM_RANK_BUCKETS = 16
NUM_AGE_BUCKETS = 25
TOUCH_DECAY_SECS = 86_400.0
SCENE_ROUNDING = 16
MAX_STEPS_BELOW = 8
MAX_ROWS = 2**31 - 1
LEAST_DENSE = 1000
"""Ids a row from which on a table counts as sparse; its arrays would be holes."""
DECLARED = {field.name: field.type for table in (ITEMS, USERS, QUERIES) for field in table.columns}
_NUMBERS = pa.list_(pa.float32())


class Catalog:
    """The item, user and query tables of a samples directory, each column an array indexed by id."""

    def __init__(self, samples: Path):
        self.directory = samples
        self.items = _read_by_id(samples / "items", "item_id")
        self.users = _read_by_id(samples / "users", "user_id")
        self.queries = _read_by_id(samples / "queries", "query_id")
        if not self.items["item_id"].size:
            raise InputError(f"{samples / 'items'}: no rows; make the samples again")

    def price_edges(self, fallback: Values) -> np.ndarray:
        """Return inner edges of the log-price buckets: quantiles over the items, or over `fallback` if they have no price."""
        price = self.items.get("price", np.zeros(0, np.float32)).astype(np.float64)
        price = price[np.isfinite(price) & (price > 0)]
        log_price = np.log(price) if price.size else fallback[np.isfinite(fallback)].astype(np.float64)
        if not log_price.size:
            return np.zeros(0)
        return np.unique(np.quantile(log_price, np.arange(1, NUM_PRICE_BUCKETS) / NUM_PRICE_BUCKETS))


def _read_by_id(directory: Path, key: str) -> dict[str, np.ndarray]:
    """Read a table into arrays indexed by its id: integers -1 where null, attribute lists as the first three, -1 beyond.

    Raises:
      InputError: ids that are missing, negative, given twice or far from dense, or a column of another type than declared.
    """
    files = sorted(directory.glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(f) for f in files]) if files else pa.table({key: pa.array([], pa.int32())})
    if key not in table.column_names:
        raise InputError(f"{directory}: column {key} is missing; make the samples again")
    for name in table.column_names:
        if name in DECLARED and not _alike(table.schema.field(name).type, DECLARED[name]):
            found = table.schema.field(name).type
            raise InputError(f"{directory}: column {name} is {found}, not {DECLARED[name]}; make the samples again")
    ids = table[key].fill_null(-1).to_numpy().astype(np.int64)
    num_ids = int(ids.max(initial=-1)) + 1
    if ids.min(initial=0) < 0:
        raise InputError(f"{directory}: {key} of row {int(ids.argmin())} is missing or negative; make the samples again")
    if num_ids > LEAST_DENSE * (len(ids) + LEAST_DENSE):
        raise InputError(f"{directory}: {key} {num_ids - 1} in a table of {len(ids)} rows; number them densely from 0")
    counts = np.bincount(ids, minlength=num_ids)
    if counts.max(initial=0) > 1:
        raise InputError(f"{directory}: {key} {int(counts.argmax())} is there twice; make the samples again")
    out: dict[str, np.ndarray] = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_integer(column.type):
            values = column.fill_null(-1).to_numpy().astype(np.int64)
            out[name] = np.full(num_ids, -1, np.int64)
        elif pa.types.is_floating(column.type):
            values = column.to_numpy().astype(np.float32)
            out[name] = np.full(num_ids, np.nan, np.float32)
        elif pa.types.is_list(column.type):
            lists = column.combine_chunks()
            lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            flat = lists.flatten().fill_null(-1).to_numpy(zero_copy_only=False)
            values = np.full((len(ids), MAX_ATTRIBUTES), -1, np.int64)
            row = np.repeat(np.arange(len(ids)), lengths)
            slot = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            values[row[slot < MAX_ATTRIBUTES], slot[slot < MAX_ATTRIBUTES]] = flat[slot < MAX_ATTRIBUTES]
            out[name] = np.full((num_ids, MAX_ATTRIBUTES), -1, np.int64)
        else:
            continue
        out[name][ids] = values
    return out


def _alike(found: pa.DataType, declared: pa.DataType) -> bool:
    """Say whether a column can be read as the declared one: both whole numbers, real numbers, text, or lists of such."""
    if pa.types.is_list(declared):
        return pa.types.is_list(found) and _alike(found.value_type, declared.value_type)
    kinds = (pa.types.is_integer, pa.types.is_floating, lambda t: pa.types.is_string(t) or pa.types.is_large_string(t))
    return any(kind(found) and kind(declared) for kind in kinds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What no single chunk shows: which columns hold anything, how large the codes in them get, which numbers there are."""

    has_position: bool
    has_price: bool
    max_scene: int
    max_shop: int
    price_edges: np.ndarray
    numbers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Feature:
    """A feature and the function that computes it from a chunk (ids from -1, or real values)."""

    field: Field | NumericField
    compute: Callable[[Chunk], np.ndarray]
    required: bool = False


class Encoder:
    """Turns chunks of samples into rows of the fused table and numeric columns; `spec` says what the columns are."""

    def __init__(self, catalog: Catalog, layout: Layout, domains: tuple[str, ...]):
        self._sizes: dict[str, int] = {}
        self._features: list[_Feature] = []
        self._declare(catalog, layout, domains)
        tables = tuple(Table(name=name, num_rows=rows) for name, rows in self._sizes.items())
        self.spec = FeatureSpec(
            tables=tables,
            fields=tuple(f.field for f in self._features if isinstance(f.field, Field)),
            numeric=tuple(f.field for f in self._features if isinstance(f.field, NumericField)),
            domains=domains,
            tasks=TASKS,
            history_len=0,
        )
        if self.spec.num_rows > MAX_ROWS:
            name, size = max(self._sizes.items(), key=lambda item: item[1])
            raise InputError(
                f"{catalog.directory}: codes of {name} up to {size - 2}, too large for a table; number them densely from 0"
            )

    def _declare(self, catalog: Catalog, layout: Layout, domains: tuple[str, ...]) -> None:
        items, users, queries = catalog.items, catalog.users, catalog.queries

        def add(
            name: str,
            group: Group,
            level: Level,
            table: str,
            size: int,
            compute: Callable[[Chunk], np.ndarray],
            required: bool = False,
        ) -> None:
            self._sizes[table] = max(self._sizes.get(table, 1), size + 1)
            self._features.append(_Feature(Field(name=name, group=group, level=level, table=table), compute, required))

        def look_up(group: Group, level: Level, prefix: str, rows: dict[str, np.ndarray], name: str, table: str, ids) -> None:
            """Add a column of `rows`, read at the ids that `ids` finds in a chunk; nothing where the column is absent."""
            if name not in rows:
                return
            column = rows[name]
            size = int(column.max(initial=-1)) + 1
            if column.ndim == 1:
                add(prefix + name, group, level, table, size, lambda c: _at(column, ids(c)))
                return
            for slot in range(column.shape[1]):
                slot_name = f"{prefix}attribute_{slot + 1}"
                add(slot_name, group, level, table, size, lambda c, slot=slot: _at(column[:, slot], ids(c)))

        num_items, num_users, num_queries = (
            len(t[k]) for t, k in ((items, "item_id"), (users, "user_id"), (queries, "query_id"))
        )
        user_id, query_id = (lambda c: c.request("user_id")), (lambda c: c.request("query_id"))
        item_id, history_item_id = (lambda c: c.item_id), (lambda c: c.history_item_id)

        add("user_id", "user", "request", "user", num_users, user_id, required=True)
        look_up("user", "request", "", users, "segment", "segment", user_id)
        look_up("user", "request", "", users, "budget", "budget", user_id)

        if num_queries:
            add("query_id", "query", "request", "query", num_queries, query_id)
            look_up("query", "request", "query_", queries, "category_3", "category_3", query_id)
            look_up("query", "request", "query_", queries, "brand_id", "brand", query_id)
            look_up("query", "request", "query_", queries, "attribute_ids", "attribute", query_id)

        scenes = (max(layout.max_scene, 0) // SCENE_ROUNDING + 1) * SCENE_ROUNDING  # so that compositions share one layout
        add("domain", "domain", "request", "domain", len(domains), lambda c: c.domain)
        add("scene", "domain", "request", "scene", scenes, lambda c: c.request("scene"))
        if "shop_id" in items:
            add("page_shop_id", "domain", "request", "shop", layout.max_shop + 1, lambda c: c.request("shop_id"))
        add("hour", "domain", "request", "hour", 24, lambda c: c.request("ts") // 3600 % 24)

        add("item_id", "item", "candidate", "item", num_items, item_id, required=True)
        for name, table in (
            ("category_1", "category_1"),
            ("category_2", "category_2"),
            ("category_3", "category_3"),
            ("brand_id", "brand"),
            ("shop_id", "shop"),
            ("attribute_ids", "attribute"),
        ):
            look_up("item", "candidate", "", items, name, table, item_id)
        if layout.has_price:
            buckets = len(layout.price_edges) + 1
            add("price", "item", "candidate", "price", buckets, lambda c: _bucket(c.log_price, layout.price_edges))
        if layout.has_position:
            add("position", "item", "candidate", "position", MAX_POSITION, lambda c: _capped(c.flat("position"), MAX_POSITION))
        add("rank", "item", "candidate", "rank", NUM_RANK_BUCKETS, lambda c: _log_bucket(c.flat("rank"), 2, NUM_RANK_BUCKETS))
        add("touches", "item", "candidate", "touches", 3, lambda c: np.minimum(c.flat("touches").astype(np.int64), 3) - 1)
        add("touch_age", "item", "candidate", "touch_age", NUM_AGE_BUCKETS, lambda c: _age_bucket(c.flat("touch_age")))
        add(
            "touch_rank", "item", "candidate", "touch_rank", MAX_TOUCH_RANK, lambda c: _capped(c.touch_rank - 1, MAX_TOUCH_RANK)
        )

        add("touch_event", "item", "candidate", "event", len(KINDS) * len(domains), lambda c: c.last_event(len(domains)))
        if layout.has_position:
            size = 2 * MAX_STEPS_BELOW + 1
            add("steps_below", "item", "candidate", "steps_below", size, lambda c: _steps(c.steps_below, MAX_STEPS_BELOW))

        add("history_item_id", "sequence", "history", "item", num_items, history_item_id, required=True)
        look_up("sequence", "history", "history_", items, "category_3", "category_3", history_item_id)
        look_up("sequence", "history", "history_", items, "brand_id", "brand", history_item_id)
        add("history_event", "sequence", "history", "event", len(KINDS) * len(domains), lambda c: c.history_event(len(domains)))
        # A table of its own, which a model may read as times (`unisc.models.hstu`): its rows mean ages, and nothing else.
        add("history_age", "sequence", "history", "history_age", NUM_AGE_BUCKETS, lambda c: _age_bucket(c.flat("history_age")))

        numeric: dict[str, Callable[[Chunk], np.ndarray]] = {}
        if layout.has_price:
            numeric |= {"log_price_over_mean": lambda c: c.price_over_mean, "price_rank": lambda c: c.price_rank}
        numeric |= {
            "log_touches": lambda c: np.log1p(np.maximum(c.flat("touches"), 0).astype(np.float32)),
            "touch_decay": lambda c: _decay(c.flat("touch_age")),
            "reciprocal_touch_rank": lambda c: _reciprocal(c.touch_rank),
        }
        if layout.has_position:
            numeric["reciprocal_position"] = lambda c: _reciprocal(c.flat("position").astype(np.int64) + 1)
        numeric |= {name.removeprefix(NUMBER): (lambda c, name=name: c.flat(name)) for name in layout.numbers}
        for name, compute in numeric.items():
            self._features.append(_Feature(NumericField(name=name, group="item", level="candidate"), compute))

    def ids(self, chunk: Chunk, level: Level, num_rows: int) -> Int32[np.ndarray, "num_rows M"]:
        """Encode a level's categorical fields as rows of the fused table.

        Raises:
          InputError: an id that its table does not hold, or none where there must be one.
        """
        offsets = self.spec.table_offsets()
        features = [f for f in self._features if isinstance(f.field, Field) and f.field.level == level]
        out = np.empty((num_rows, len(features)), np.int32)
        for column, feature in enumerate(features):
            assert isinstance(feature.field, Field)
            ids, size = feature.compute(chunk), self._sizes[feature.field.table]
            least = 0 if feature.required else -1
            if ids.size and not (ids.min() >= least and ids.max() + 1 < size):
                place = int(ids.argmax() if ids.min() >= least else ids.argmin())
                what, request = feature.field.name, chunk.request_at(level, place)
                if feature.required and ids[place] == -1:
                    raise chunk.fault(what, request, "is missing")
                raise chunk.fault(f"{what} {ids[place]}", request, f"is not in its table of {size - 1}")
            out[:, column] = ids + (offsets[feature.field.table] + 1)
        return out

    def numeric(self, chunk: Chunk, num_rows: int) -> Float32[np.ndarray, "num_rows P"]:
        """Compute the candidates' numeric columns."""
        features = [f for f in self._features if isinstance(f.field, NumericField)]
        out = np.empty((num_rows, len(features)), np.float32)
        for column, feature in enumerate(features):
            out[:, column] = feature.compute(chunk)
        return out


def check_columns(schema: pa.Schema, file: Path) -> tuple[str, ...]:
    """Check a samples file's columns against the declared ones; return the names of its further numbers.

    Raises:
      InputError: a column is missing or has another type.
    """
    numbers = tuple(sorted(name for name in schema.names if name.startswith(NUMBER)))
    for name in numbers:
        if not schema.field(name).type.equals(_NUMBERS):
            raise InputError(f"{file}: column {name} is {schema.field(name).type}, not {_NUMBERS}; make the samples again")
    for field in SAMPLES:
        index = schema.get_field_index(field.name)
        if index < 0:
            raise InputError(f"{file}: column {field.name} is missing; make the samples again")
        if not schema.field(index).type.equals(field.type):
            found = schema.field(index).type
            raise InputError(f"{file}: column {field.name} is {found}, not {field.type}; make the samples again")
    return numbers


def _at(column: np.ndarray, ids: Ids) -> Ids:
    """Read `column` at `ids`, which have been checked where they are a feature themselves; -1 where the id is absent."""
    return np.where(ids >= 0, column[np.maximum(ids, 0)], -1) if len(column) else np.full(ids.shape, -1, np.int64)


def _bucket(values: Values, edges: np.ndarray) -> Ids:
    return np.where(np.isfinite(values), np.searchsorted(edges, values, side="right"), -1)


def _capped(values: np.ndarray, size: int) -> Ids:
    return np.clip(values.astype(np.int64), -1, size - 1)


def _log_bucket(values: np.ndarray, per_octave: int, size: int) -> Ids:
    """Floor of `per_octave` x log2(value + 1), capped; -1 for a negative value."""
    known = values >= 0
    log = np.floor(per_octave * np.log2(np.where(known, values, 0).astype(np.float64) + 1)).astype(np.int64)
    return np.where(known, np.minimum(log, size - 1), -1)


def _age_bucket(seconds: np.ndarray) -> np.ndarray:
    """Floor of log2(seconds + 1), capped; -1 for a negative age. An exponent is exact, and half the time of a logarithm."""
    return np.minimum(np.frexp(np.maximum(seconds, -1) + 1.0)[1], NUM_AGE_BUCKETS) - 1


def _steps(values: np.ndarray, most: int) -> Ids:
    """Signed steps capped at `most` either way, counted from 0; -1 where NaN."""
    known = np.isfinite(values)
    return np.where(known, np.clip(np.where(known, values, 0), -most, most) + most, -1).astype(np.int64)


def _decay(age: np.ndarray) -> Values:
    return np.where(age >= 0, np.exp(-np.maximum(age, 0) / TOUCH_DECAY_SECS), 0).astype(np.float32)


def _reciprocal(rank: Ids) -> Values:
    return np.where(rank > 0, 1 / np.maximum(rank, 1), 0).astype(np.float32)
