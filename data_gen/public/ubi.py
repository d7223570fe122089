"""OpenSearch User Behavior Insights: any shop's searches, impressions and actions in the UBI form, as log tables.

Source: the shop that logged; form by github.com/o19s/ubi (specification 1.x) and docs.opensearch.org "UBI index schemas"; both
Apache-2.0, the logs are the shop's. A simulated sample (opensearch-project/search-relevance) was at hand: the tests read it
where it is there. Read are all `*.ndjson` and `*.jsonl` of the folder: bulk files (an `index` line before each document),
exports (`_source` around it) or bare documents; one with `action_name` is an event, one with `query_id` alone a query.

What a document means, and where it goes:

- a query: one call of a search. Documents of one `query_id` are one request of the one domain "search": its user is
  `client_id` (`user_id` is mostly empty), its time the earliest, its text the `user_query` of the first that returned hits
  (else the first), its `scene` a code of `application`.
- an event "impression": an exposed candidate, its `position` counted from the application's smallest `position.ordinal` (some
  shops count from 0, some from 1; the form does not say).
- events "click", "add_to_cart", "purchase" (the form's names; `read(path, actions=...)` takes a shop's own): events of kind
  click, cart, purchase on `object_id` and on the request of their `query_id`. Every other action is left out and counted by
  name. One action that a client logs several times within one second (a double click, a message sent twice) is one event.
- `query_response_hit_ids`: what the engine returned. Hits without an impression are unexposed candidates, and the hits'
  order is the rank; candidates outside it come after, by position.
- items: `object_id`, with the first `object.description` as `title`.

Certain from the form: the names and their meaning, times as ISO text or unix milliseconds (without a zone: UTC). Assumed: an
`object_id` names one thing whatever its `object_id_field`, and is what hits are named by; a result that was clicked was shown,
though no impression of it was logged (counted).

A query without any impression has no list that one may call shown, and is left out. An event whose query is unknown, or has
no list, stays as an event on no request. Events before their request (clocks of browsers differ) are left as they are: ES3
sets them aside and counts them. UBI says nothing of other domains, prices or categories in a form one could rely on, so
there are none."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_gen.public import delimited, listed
from data_gen.public.adapter import Adapter, Converted
from data_gen.public.ubi_source import Documents, Event, Query, read_documents
from unisc.errors import InputError

DOMAINS = ("search",)
FILES = ("*.ndjson", "*.jsonl")
IMPRESSION = "impression"
ACTIONS = {"click": "click", "add_to_cart": "cart", "purchase": "purchase"}
"""Action names of the form for the kinds of the log tables."""

_POSITION = pa.struct([("ordinal", pa.int64())])
_OBJECT = pa.struct([("object_id", pa.string()), ("description", pa.string())])
COLUMNS = {
    FILES[0]: pa.schema(
        [
            ("application", pa.string()),
            ("query_id", pa.string()),
            ("client_id", pa.string()),
            ("timestamp", pa.string()),
            ("user_query", pa.string()),
            ("query_response_hit_ids", pa.list_(pa.string())),
            ("action_name", pa.string()),
            ("event_attributes", pa.struct([("object", _OBJECT), ("position", _POSITION)])),
        ]
    )
}


def read(path: Path, *, test_share: float = 0.1, actions: Mapping[str, str] = ACTIONS) -> Converted:
    """Read a folder of UBI documents, plain or as .gz.

    `test_share` of the requests, the last by time, are test. `actions` names the kind of each action that counts.

    Raises:
      InputError: no file; a line that is no JSON object, named by file and line; no query with an impression; a share that
        leaves a split empty.
    """
    documents = read_documents(delimited.find(path, *FILES), wanted={IMPRESSION, *actions})
    first = {query.query_id: query for query in documents.queries}
    impressions: dict[str, dict[str, int | None]] = {}
    actors: list[tuple[Event, str]] = []
    dropped = Counter(documents.dropped_events)
    for event in documents.events:
        if event.action != IMPRESSION:
            actors.append((event, actions[event.action]))
        elif event.query_id not in first:
            dropped["impression of a query that is not logged"] += 1
        elif event.item in impressions.setdefault(event.query_id, {}):
            dropped["impression of an item its query has shown before"] += 1
        else:
            impressions[event.query_id][event.item] = event.ordinal
    queries = [query for query in documents.queries if query.query_id in impressions]
    if not queries:
        raise InputError(f"{path}: no logged query has an impression, so no list was shown; log impressions")
    place = {query.query_id: i for i, query in enumerate(queries)}
    actors = _without_repeats(actors, place, dropped)
    by_click = 0
    for event, kind in actors:
        if kind == "click" and event.query_id in place and event.item not in impressions[event.query_id]:
            impressions[event.query_id][event.item] = event.ordinal
            by_click += 1
    entries = _entries(queries, impressions)
    items = set(zip(entries["list"].to_pylist(), entries["item"].to_pylist(), strict=True))
    tables, _ = listed.log_tables(
        lists=_requests(queries), entries=entries, events=_events(actors, place), items=_items(documents)
    )
    return Converted(
        tables=tables,
        domains=DOMAINS,
        test_start=listed.choose_test_start(tables["requests"]["ts"].to_numpy(), test_share),
        end_ts=listed.end_of(tables),
        quality={
            "rows": {
                "queries": listed.account(
                    documents.num_queries,
                    {**documents.dropped_queries, "no impression": len(documents.queries) - len(queries)},
                ),
                "events": listed.account(documents.num_events, dropped),
                "lines that are neither": documents.num_others,
            },
            "shown by a click only": by_click,
            "actions on no request": sum(e.query_id not in place for e, _ in actors),
            "actions on an item their list does not hold": sum(
                e.query_id in place and (place[e.query_id], e.item) not in items for e, _ in actors
            ),
            "actions before their request": sum(e.query_id in place and e.ts < first[e.query_id].ts for e, _ in actors),
            "queries whose documents differ in text": documents.num_retyped,
            "test_share": test_share,
        },
    )


def _without_repeats(
    actors: list[tuple[Event, str]], place: Mapping[str, int], dropped: Counter[str]
) -> list[tuple[Event, str]]:
    """Keep the first of the events that no column of the table would tell apart: times there are whole seconds."""
    once: dict[tuple[Any, ...], tuple[Event, str]] = {}
    for event, kind in actors:
        told = (event.client, event.item, event.ts, kind, place.get(event.query_id))
        if once.setdefault(told, (event, kind))[0] is not event:
            dropped[f"{kind} that repeats one of its second"] += 1
    return list(once.values())


def _requests(queries: list[Query]) -> pa.Table:
    return listed.requests(
        user=pa.array([q.client for q in queries]),
        ts=pa.array([q.ts for q in queries], pa.int64()),
        domain=DOMAINS[0],
        query=pa.array([q.text for q in queries], pa.string()),
        scene=listed.coded(pa.array([q.application for q in queries], pa.string())),
    )


def _entries(queries: list[Query], shown: Mapping[str, Mapping[str, int | None]]) -> pa.Table:
    """Candidates in rank order: hits as returned, then what was shown beside them by its ordinal."""
    base: dict[str | None, int] = {}
    for query in queries:
        ordinals = [o for o in shown[query.query_id].values() if o is not None]
        base[query.application] = min([*ordinals, base.get(query.application, 2**31)])
    rows: dict[str, list[Any]] = {"list": [], "item": [], "exposed": [], "position": []}
    for i, query in enumerate(queries):
        exposed = shown[query.query_id]
        hits = dict.fromkeys(query.hits)
        beside = sorted((o if o is not None else 2**31, item) for item, o in exposed.items() if item not in hits)
        for item in [*hits, *(item for _, item in beside)]:
            ordinal = exposed.get(item)
            rows["list"].append(i)
            rows["item"].append(item)
            rows["exposed"].append(item in exposed)
            rows["position"].append(None if ordinal is None else ordinal - base[query.application])
    types = {"list": pa.int64(), "item": pa.string(), "exposed": pa.bool_(), "position": pa.int16()}
    return pa.table({name: pa.array(rows[name], dtype) for name, dtype in types.items()})


def _events(actors: list[tuple[Event, str]], place: Mapping[str, int]) -> pa.Table:
    return pa.table(
        {
            "user": pa.array([e.client for e, _ in actors], pa.string()),
            "item": pa.array([e.item for e, _ in actors], pa.string()),
            "ts": pa.array([e.ts for e, _ in actors], pa.int64()),
            "domain": pa.repeat(DOMAINS[0], len(actors)),
            "kind": pa.array([kind for _, kind in actors], pa.string()),
            "list": pa.array([place.get(e.query_id) for e, _ in actors], pa.int64()),
        }
    )


def _items(documents: Documents) -> pa.Table:
    titles: dict[str, str] = {}
    for event in documents.events:
        if event.description:
            titles.setdefault(event.item, event.description)
    return pa.table({"item": pa.array(titles, pa.string()), "title": pa.array(titles.values(), pa.string())})


ADAPTER = Adapter(
    name="ubi",
    title="OpenSearch User Behavior Insights: a shop's own search log",
    source="https://github.com/o19s/ubi",
    licence="Apache-2.0 for the form; the logs are their owner's",
    gives=(
        "searches with text, client and time, and the results shown with their slots",
        "hits that were returned and not shown, where the shop logs them: unexposed candidates",
        "clicks, carts and purchases with times",
        "item descriptions",
    ),
    cannot_give=(
        "a feed or any other domain: the form knows searches only",
        "lists of queries without impressions",
        "categories, brands and prices in a fixed form",
        "propensities",
    ),
    columns=COLUMNS,
    read=read,
)
