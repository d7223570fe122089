"""Interests of log tables: an example is a click on a page, with what was known when the page was asked for."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_gen.es3.tables import Header, read_header
from data_gen.interests import visual
from data_gen.interests.config import InterestsConfig
from data_gen.interests.found import NO_QUERY, Found, Rows, known_items, last, none_of, unknown
from data_gen.interests.log_tables import Events, Pages, Sizes, read_events, read_pages, read_shown, read_whole
from data_gen.marketplace.generate import GENERATOR
from unisc.data.ragged import Ragged
from unisc.data.schema import ITEMS, QUERIES, USERS
from unisc.errors import InputError

VALIDATION_SHARE = 0.1
_CATEGORIES = ("category_3", "category_2", "category_1")


def read(logs: Path, config: InterestsConfig, *, generator: str | None, converted: bool) -> Found:
    """Read log tables. Features of logs that an adapter `converted` are unknown where they are 0, as adapters write it.

    Rows that cannot be used are left out and counted by reason.

    Raises:
      InputError: a table missing or of another schema, a catalogue table with a fault, a domain that the logs do not have, no
        click on a page of the domains before or after the start of the test.
    """
    header = read_header(logs)
    for domain in config.domains:
        if domain not in header.domains:
            raise InputError(f"domains: {domain!r} is not in these logs; give some of {', '.join(header.domains)}")
    domains = config.domains or header.domains[:1]
    items, queries = (read_whole(logs, schema) for schema in (ITEMS, QUERIES))
    sizes, dropped = Sizes(items=len(items), users=len(read_whole(logs, USERS)), queries=len(queries)), Counter[str]()
    pages = read_pages(logs, domains, sizes, dropped)
    events = read_events(logs, pages, sizes, dropped)
    clicks = events.where(events.click)

    # What was clicked on which page, each once; pages are in the order of time, so examples are, too.
    on_page = (clicks.page >= 0) & pages.wanted[clicks.page]
    page, item = np.divmod(np.unique(clicks.page[on_page] * sizes.items + clicks.item[on_page]), sizes.items)
    shown, long_lists = read_shown(logs, pages, events, np.unique(page), config.max_shown, sizes, dropped)
    past, splits, cut = _Past(clicks, pages), {}, {}
    times = _times(header, pages.ts[page], config)
    for split, (start, end) in times.items():
        inside = (pages.ts[page] >= start) & (pages.ts[page] < end)
        at, counts = page[inside], np.ones(int(inside.sum()), np.int64)
        if split != "train":
            at, counts = np.unique(at, return_counts=True)
        if not len(at) and split != "validation":
            raise InputError(f"{logs}: no click on a page of {', '.join(domains)} to {split} on; give longer logs")
        history, cut[split] = past.histories(at, config.history_len)
        targets = Ragged.laid(item[inside].astype(np.int32), counts)
        splits[split] = Rows(user=pages.user[at], query=pages.query[at], history=history, targets=targets, shown=shown.take(at))
    end = times["train"][1]
    seen = clicks.ts < end
    asked = pages.query[pages.wanted & (pages.ts < end) & (pages.query != NO_QUERY)]
    return Found(
        titles=_texts(items["title"]),
        **_features(items, config, generated=generator == GENERATOR, zero_is_unknown=converted),
        queries=_texts(queries["text"]),
        train_queries=np.unique(asked),
        splits=splits,
        known=known_items(clicks.user[seen], clicks.item[seen], num_users=sizes.users, num_items=sizes.items),
        is_ordered=True,
        quality={
            "histories cut": cut,
            "empty histories": {name: none_of(rows.history) for name, rows in splits.items()},
            "examples without a query": {name: int((rows.query == NO_QUERY).sum()) for name, rows in splits.items()},
            "lists cut": long_lists,
            "train ends": end,
            "dropped": {reason: num for reason, num in dropped.items() if num},
        },
    )


class _Past:
    """All clicks by user and time, to look up those before a page was asked for."""

    def __init__(self, clicks: Events, pages: Pages):
        self.user = pages.user
        # Times as their ranks, so that user and time fit one number, however long the logs are.
        _, rank = np.unique(np.concatenate([clicks.ts, pages.ts]), return_inverse=True)
        self.num_ranks = len(rank) + 1
        self.asked = rank[len(clicks.ts) :]
        # Clicks of one second stand by page and item: how the logs lie on disk must not matter.
        order = np.lexsort((clicks.item, clicks.page, clicks.ts, clicks.user))
        self.item = clicks.item[order]
        self.key = (clicks.user * self.num_ranks + rank[: len(clicks.ts)])[order]

    def histories(self, page: np.ndarray, length: int) -> tuple[Ragged, int]:
        """Return the last clicks of the user before each page, oldest first, and how many had more than `length`."""
        first = self.user[page] * self.num_ranks
        starts, ends = (np.searchsorted(self.key, key) for key in (first, first + self.asked[page]))
        return last(self.item, starts, ends, length)


def _times(header: Header, ts: np.ndarray, config: InterestsConfig) -> dict[str, tuple[int, int]]:
    """Return the first second of each split and the first after it, from the times of the clicked pages."""
    share = VALIDATION_SHARE if config.validation_share is None else config.validation_share
    before, start = np.sort(ts[ts < header.test_start]), header.test_start
    if share and len(before):
        start = int(before[len(before) - max(1, int(share * len(before)))])
        if start == before[0]:
            raise InputError(
                f"validation_share {share}: leaves nothing of {len(before)} clicks to train on; give a smaller one"
            )
    return {"train": (0, start), "validation": (start, header.test_start), "test": (header.test_start, 2**62)}


def _features(items: pa.Table, config: InterestsConfig, *, generated: bool, zero_is_unknown: bool) -> dict[str, Any]:
    """Return category (the finest level that the logs have), brand, and in a generated shop visual vectors."""

    def codes(*names: str) -> np.ndarray:
        for name in names:
            if items[name].null_count < len(items):
                found = pc.fill_null(items[name], -1).to_numpy().astype(np.int32)
                return np.where(found == 0, np.int32(-1), found) if zero_is_unknown else found
        return unknown(len(items))

    category, vectors = codes(*_CATEGORIES), None
    if generated and config.visual_dim:
        lists = items["attribute_ids"].combine_chunks()
        attributes = Ragged.laid(pc.list_flatten(lists).to_numpy(), pc.list_value_length(lists).to_numpy())
        vectors = visual.vectors(category.astype(np.int64), attributes, dim=config.visual_dim, seed=config.seed)
    return {"category": category, "brand": codes("brand_id"), "visual": vectors}


def _texts(column: pa.ChunkedArray) -> list[str]:
    return pc.fill_null(column, "").to_pylist()
