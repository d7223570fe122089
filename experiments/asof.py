"""What a ranker sees of a request while it is being made: the samples' features, as of that second, for lists not yet shown.

The samples' own encoder (`unisc.data.encode`) computes every feature from the same columns that ES3 writes; this module makes
those columns from the lists and the events so far. One thing differs by nature from a logged request: nothing has been shown
yet, so a list is its own context of price and touch ranks, where a logged list's context is what it showed.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_gen.marketplace.config import DOMAINS, SCENES
from data_gen.marketplace.online import Asked
from unisc.data.chunk import Chunk
from unisc.data.columns import Columns, encode
from unisc.data.encode import TASKS, Catalog, Encoder, Layout
from unisc.data.features import FeatureSpec
from unisc.errors import InputError
from unisc.train.trained import About

_MOST = {"touches": 2**15 - 1, "touch_age": 2**31 - 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """Of each request its latest events, most recent first (H,); of each candidate how often and when last it was met (N,)."""

    lengths: np.ndarray  # (R,)
    item: np.ndarray
    kind: np.ndarray
    domain: np.ndarray
    age: np.ndarray
    touches: np.ndarray
    touch_age: np.ndarray  # -1 if never


def past_of(asked: Asked, *, length: int, max_age: int) -> Past:
    """Return what is known at each request: events strictly before it; `length` at most, none older than `max_age` if not 0."""
    log = asked.events
    visitors = int(max(asked.user.max(initial=-1), log.user.max(initial=-1))) + 1
    now, place = np.full(visitors, -1, dtype=np.int64), np.full(visitors, -1, dtype=np.int64)
    now[asked.user], place[asked.user] = asked.ts, np.arange(len(asked.user))
    known = log.ts < now[log.user]
    user, ts, item, kind, domain = (getattr(log, n)[known].astype(np.int64) for n in ("user", "ts", "item", "kind", "domain"))
    # ES3 orders a user's events by time, item, kind and domain; requests come in the order they are asked.
    order = np.lexsort(((item * 4 + kind) * 4 + domain, ts, place[user]))
    of, ts, item, kind, domain = place[user][order], ts[order], item[order], kind[order], domain[order]

    counts = np.bincount(of, minlength=len(asked.user))
    back = (np.cumsum(counts) - 1)[of] - np.arange(len(of))
    age = asked.ts[of] - ts
    kept = (back < length) & ((age <= max_age) | (max_age == 0))
    latest = np.flatnonzero(kept)
    latest = latest[np.lexsort((back[latest], of[latest]))]

    # Of one visitor's meetings with an item the last in time stands last.
    many = 1 + int(max(item.max(initial=0), asked.item.max(initial=0)))
    key = of * many + item
    met = np.argsort(key, kind="stable")
    distinct, first = np.unique(key[met], return_index=True)
    ends = np.append(first[1:], len(met))
    row = np.repeat(np.arange(len(asked.sizes)), asked.sizes)
    wanted = row * many + asked.item
    touches, touch_age = np.zeros(len(wanted), dtype=np.int64), np.full(len(wanted), -1, dtype=np.int64)
    if len(distinct):
        at = np.minimum(np.searchsorted(distinct, wanted), len(distinct) - 1)
        hit = distinct[at] == wanted
        touches[hit] = (ends - first)[at[hit]]
        touch_age[hit] = (asked.ts[row] - ts[met][ends[at] - 1])[hit]
    return Past(
        lengths=np.bincount(of[latest], minlength=len(asked.user)),
        item=item[latest],
        kind=kind[latest],
        domain=domain[latest],
        age=np.minimum(age[latest], 2**31 - 1),
        touches=np.minimum(touches, _MOST["touches"]),
        touch_age=np.minimum(touch_age, _MOST["touch_age"]),
    )


class Features:
    """The encoder of a shop's logs: it gives requests being made the features that samples of those logs have."""

    def __init__(self, logs: Path):
        catalog = Catalog(logs)
        layout = Layout(
            has_position=True,
            has_price=True,
            max_scene=SCENES - 1,
            max_shop=int(catalog.items["shop_id"].max()),
            price_edges=catalog.price_edges(np.zeros(0, np.float32)),
        )
        self.encoder, self.source = Encoder(catalog, layout, DOMAINS), logs

    def spec(self, about: About, name: str) -> FeatureSpec:
        """Return a ranker's features, which are this shop's.

        Raises:
          InputError: it was trained on others.
        """
        spec = dataclasses.replace(self.encoder.spec, history_len=about.spec.history_len)
        if spec != about.spec:
            mine, theirs = ({f.name for f in (*s.fields, *s.numeric)} for s in (spec, about.spec))
            differ = ", ".join(sorted(mine ^ theirs)) or "tables of other sizes"
            raise InputError(
                f"{name}: trained on another schema than {self.source} has ({differ}); give a ranker trained on samples of it"
            )
        return spec

    def columns(self, asked: Asked, about: About, *, position: np.ndarray | None = None) -> Columns:
        """Return the requests as columns; `position` (N,) are slots, -1 where not shown, of lists that have been shown."""
        past = past_of(asked, length=about.past_len, max_age=about.past_max_age)
        total = len(asked.item)
        slots = np.full(total, -1, dtype=np.int16) if position is None else position
        zeros, ones = np.zeros(total, dtype=np.int8), np.ones(total, dtype=np.float32)
        lists = {
            "item_id": asked.item,
            "exposed": slots >= 0,
            "position": slots.astype(np.int16),
            "rank": asked.rank.astype(np.int16),
            "price": asked.price,
            "touches": past.touches.astype(np.int16),
            "touch_age": past.touch_age.astype(np.int32),
            **dict.fromkeys(TASKS, zeros),
            **dict.fromkeys((f"{task}_weight" for task in TASKS), ones),
        }
        history = {f"history_{name}": getattr(past, name).astype(np.int32) for name in ("item", "kind", "domain", "age")}
        history["history_item_id"] = history.pop("history_item")
        columns: dict[str, pa.Array] = {
            "request_id": pa.array(np.arange(len(asked.ts))),
            "user_id": pa.array(asked.user_id),
            "ts": pa.array(asked.ts),
            "domain": pa.DictionaryArray.from_arrays(pa.array(asked.domain), pa.array(DOMAINS)),
            "query_id": pa.array(asked.query),
            "scene": pa.array(asked.scene),
            "shop_id": pa.array(asked.shop),
            **{name: _lists(asked.sizes, values) for name, values in lists.items()},
            **{name: _lists(past.lengths, values) for name, values in history.items()},
        }
        arrays = encode(self.encoder, Chunk(_Rows(columns, len(asked.ts)), DOMAINS, self.source))
        return Columns(spec=about.spec, cache=self.source, **arrays)


@dataclass(frozen=True, slots=True)
class _Rows:
    columns: dict[str, pa.Array]
    num_rows: int

    def column(self, name: str) -> pa.Array:
        return self.columns[name]


def _lists(sizes: np.ndarray, values: np.ndarray) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
