"""Facts that cross users: computed once over all of them, then read by every bucket."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_gen.es3.candidates import CLICK, TARGET, in_request
from data_gen.es3.config import ES3Config
from data_gen.es3.query_text import nearest_queries
from data_gen.es3.session import Session, parquet_files
from data_gen.es3.tables import Logs
from data_gen.es3.words import word_ids

DAY = 86400
FACTS = "facts.json"

_SCHEMAS = {
    "common": pa.schema([("common_item", pa.int32()), ("since", pa.int64()), ("until", pa.int64()), ("common", pa.int32())]),
    "nearest": pa.schema([("near_item", pa.int32()), ("near", pa.int32())]),
    "item_words": pa.schema([("words_item", pa.int32()), ("words", pa.list_(pa.int32()))]),
    "query_terms": pa.schema([("term_query", pa.int32()), ("word", pa.int32()), ("weight", pa.int64())]),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """What searchification and the text rule need to know of all users and the whole catalogue.

    `common`: an item's most frequent query from day `since` + 1 to day `until`. `nearest`: the query nearest to an item's
    title. `item_words`: distinct ids of a title's words that occur in queries, null if the title has no word. `query_terms`:
    words of each query with their rarity. `num_negatives`: negatives a pseudo request. Tables that the configuration does not
    need are empty.
    """

    common: ir.Table
    nearest: ir.Table
    item_words: ir.Table
    query_terms: ir.Table
    num_negatives: int


def write_shared(session: Session, logs: Logs, config: ES3Config, out: Path) -> None:
    """Compute the facts over the logs of all users and write them into `out`."""
    facts: dict[str, Any] = {"num_negatives": _num_negatives(session, logs)}
    tables: dict[str, pa.Table] = {name: schema.empty_table() for name, schema in _SCHEMAS.items()}
    if config.needs_words:
        titles, texts = _titles(session, logs), _texts(session, logs)
        item_words, query_words, weights = word_ids(titles["title"], texts["text"])
        item_words = pc.if_else(_says_anything(titles["title"]), item_words, None)
        tables["item_words"] = pa.table([titles["item_id"], item_words], schema=_SCHEMAS["item_words"])
        tables["query_terms"] = _terms(texts["query_id"], query_words, weights)
    if config.searchifies:
        clicks = logs.events.filter((logs.events.kind == CLICK) & (logs.events.domain != TARGET))
        clicked = clicks.select("item_id").distinct()
        wanted = logs.items.select("item_id", "title").semi_join(clicked, "item_id")
        matched, facts["nearest"] = nearest_queries(session.fetch(wanted.order_by("item_id")), _texts(session, logs))
        tables["nearest"] = matched.cast(_SCHEMAS["nearest"])
        tables["common"] = session.fetch(_common_queries(logs)).cast(_SCHEMAS["common"])
    for name, table in tables.items():
        (out / name).mkdir()
        pq.write_table(table, out / name / "part-00000.parquet", compression="lz4")
    (out / FACTS).write_text(json.dumps(facts))


def read_facts(directory: Path) -> dict[str, Any]:
    """Return what `write_shared` found out for the quality report, without the tables."""
    return json.loads((directory / FACTS).read_text())


def read_shared(session: Session, directory: Path) -> Shared:
    """Return the facts that `write_shared` wrote."""
    facts = read_facts(directory)
    tables = {name: session.read(parquet_files(directory / name), schema) for name, schema in _SCHEMAS.items()}
    return Shared(num_negatives=facts["num_negatives"], **tables)


def _num_negatives(session: Session, logs: Logs) -> int:
    """Negatives a pseudo request: 2 x mean exposed length of train requests, less the positive (section 3, arithmetic)."""
    train = logs.requests.filter((logs.requests.domain == TARGET) & ~logs.requests.test).select("request_id")
    shown = logs.candidates.filter(logs.candidates.exposed).semi_join(train, "request_id")
    row = session.first(shown.aggregate(exposed=shown.count(), requests=shown.request_id.nunique()))
    return max(1, round(2 * row["exposed"] / max(1, row["requests"])) - 1)


def _titles(session: Session, logs: Logs) -> pa.Table:
    return session.fetch(logs.items.select("item_id", "title").order_by("item_id"))


def _texts(session: Session, logs: Logs) -> pa.Table:
    return session.fetch(logs.queries.select("query_id", "text").order_by("query_id"))


def _says_anything(titles: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.match_substring_regex(titles, r"[\pL\pN]"), False)


def _terms(queries: pa.ChunkedArray, words: pa.ListArray, weights: Any) -> pa.Table:
    lengths = words.value_lengths().to_numpy(zero_copy_only=False)
    ids = words.flatten().to_numpy()
    columns = [pa.array(queries.to_numpy().repeat(lengths)), pa.array(ids), pa.array(weights[ids])]
    return pa.table(columns, names=_SCHEMAS["query_terms"].names).cast(_SCHEMAS["query_terms"])


def _common_queries(logs: Logs) -> ir.Table:
    """The most frequent query of an item over all days before: common_item, since < day <= until, common.

    One row for each day on which the item had search clicks; it holds from the next day to the item's next such day. The best
    query so far is a running maximum: counts only grow, so the largest (count, smallest query) of any day up to now is current.
    """
    clicks = in_request(logs)
    clicks = clicks.filter((clicks.domain == TARGET) & (clicks.kind == CLICK) & clicks.query_id.notnull())
    clicks = clicks.mutate(day=(clicks.ts // DAY).cast("int64"))
    daily = clicks.group_by("item_id", "query_id", "day").aggregate(times=clicks.count())
    so_far = daily.times.sum().over(ibis.cumulative_window(group_by=["item_id", "query_id"], order_by="day"))
    ranked = daily.mutate(best=so_far * 2**31 + (2**31 - 1 - daily.query_id.cast("int64")))
    days = ranked.group_by("item_id", "day").aggregate(best=ranked.best.max())
    best = days.best.max().over(ibis.cumulative_window(group_by="item_id", order_by="day"))
    until = days.day.lead().over(group_by="item_id", order_by="day").fill_null(2**62)
    return days.select(common_item="item_id", since="day", until=until, common=(2**31 - 1 - (best & (2**31 - 1))).cast("int32"))
