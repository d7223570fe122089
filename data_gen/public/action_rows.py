"""Actions of visitors as requests: what came before each, which items are proposed, and the row of samples it becomes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int64

from data_gen.public.item_to_item import ItemToItem, Lists
from data_gen.public.retrieved_rows import UNSEEN
from unisc.data.schema import KINDS, NUMBER, SAMPLES

HISTORY_LEN = 50
"""Latest events that retrieval asks with, and that a row keeps."""
NUMBERS = tuple(NUMBER + name for name in ("in_cart", "score_over_best", "log_count"))
_FIRST, _NONE = 1e9, 1e-12
"""Above all scores of retrieval, and below them."""
ROW = pa.schema([*SAMPLES, *((name, pa.list_(pa.float32())) for name in NUMBERS)])

Each = Int64[np.ndarray, " R"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """R moments at which a visitor acted: who, when, in which domain, the events before (places), the items acted on.

    `place` is where among the events, sorted by visitor and time, the moment begins; `number` an id that stays in any choice.
    """

    number: Each
    user: Each
    ts: Each
    domain: Each
    place: Each
    targets: Lists

    def take(self, some: Each) -> "Requests":
        """Return some of the requests."""
        parts = {name: getattr(self, name)[some] for name in ("number", "user", "ts", "domain", "place")}
        return Requests(**parts, targets=self.targets.take(some))

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True, kw_only=True, slots=True)
class Events:
    """N events by visitor and time, their kind as the place of its domain; `first` is where each visitor's begin.

    `keys` holds the sorted (visitor, item, second) of the events of each kind, and of all, as one number; `span` is the room of
    a second in it.
    """

    domains: tuple[str, ...]
    num_items: int
    user: Int64[np.ndarray, " N"]
    item: Int64[np.ndarray, " N"]
    ts: Int64[np.ndarray, " N"]
    domain: Int64[np.ndarray, " N"]
    first: Int64[np.ndarray, " U1"]
    span: int
    keys: Mapping[str | None, np.ndarray]

    @classmethod
    def of(cls, table: pa.Table, domains: tuple[str, ...], *, num_users: int, num_items: int) -> "Events":
        """Take a table of events; its kinds are the domains."""
        domain = pc.index_in(table["kind"], value_set=pa.array(domains)).to_numpy().astype(np.int64)
        user, item, ts = (table[name].to_numpy().astype(np.int64) for name in ("user_id", "item_id", "ts"))
        order = np.lexsort((item, -domain, ts, user))  # of one second the action furthest from the target comes first
        first = np.searchsorted(user[order], np.arange(num_users + 1))
        span = int(ts.max()) + 2
        key = (user * num_items + item) * span + ts
        keys = {kind: np.sort(key[domain == domains.index(kind)] if kind in domains else key[:0]) for kind in KINDS}
        columns = {"user": user[order], "item": item[order], "ts": ts[order], "domain": domain[order]}
        return cls(domains=domains, num_items=num_items, first=first, span=span, keys={None: np.sort(key), **keys}, **columns)

    def requests(self) -> Requests:
        """Return every (visitor, second, domain) before which the visitor did anything."""
        order = np.lexsort((self.item, self.domain, self.ts, self.user))
        user, ts, domain = self.user[order], self.ts[order], self.domain[order]
        new = (np.diff(user, prepend=-1) != 0) | (np.diff(ts, prepend=-1) != 0) | (np.diff(domain, prepend=-1) != 0)
        at = np.flatnonzero(new)
        place = np.searchsorted(self.user * self.span + self.ts, user[at] * self.span + ts[at])
        found = Requests(
            number=np.arange(len(at)),
            user=user[at],
            ts=ts[at],
            domain=domain[at],
            place=place,
            targets=Lists.of(self.item[order], at, np.diff(np.append(at, len(user)))),
        )
        return found.take(np.flatnonzero(place > self.first[user[at]]))

    def histories(self, before: int) -> Lists:
        """Return each visitor's items in order, of events before a second."""
        kept = self.ts < before
        lengths = np.bincount(self.user[kept], minlength=len(self.first) - 1)
        return Lists.of(self.item[kept], np.cumsum(lengths) - lengths, lengths)

    def latest(self, requests: Requests) -> tuple[Each, Each]:
        """Return where the latest events before each request begin, and how many they are."""
        starts = np.maximum(self.first[requests.user], requests.place - HISTORY_LEN)
        return starts, requests.place - starts

    def kind(self, places: np.ndarray) -> np.ndarray:
        """Return the kinds of some events."""
        return np.array(self.domains)[self.domain[places]]

    def until(self, pair: np.ndarray, ts: np.ndarray, kind: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return how many events (of a kind) a pair (visitor x items + item) had before `ts`, and when the last one was."""
        keys = self.keys[kind]
        at = np.searchsorted(keys, pair * self.span + ts)
        return at - np.searchsorted(keys, pair * self.span), np.append(keys, 0)[at - 1] - pair * self.span

    def after(self, pair: np.ndarray, ts: np.ndarray, kind: str) -> np.ndarray:
        """Return when a pair's first event of a kind after `ts` was, -1 without one."""
        found = np.append(self.keys[kind], -1)[np.searchsorted(self.keys[kind], pair * self.span + ts, side="right")]
        return np.where(found // self.span == pair, found % self.span, -1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposed:
    """K candidates of R requests, the best first, with scores of retrieval and how often other visitors acted on them."""

    items: Int64[np.ndarray, "R K"]
    scores: Float64[np.ndarray, "R K"]
    counts: Float64[np.ndarray, "R K"]


def propose(rule: ItemToItem, events: Events, requests: Requests, *, num: int, touched: int) -> Proposed:
    """Propose items touched last and not bought, at most `touched`, then what retrieval finds for the latest events."""
    starts, lengths = events.latest(requests)
    places = Lists.of(np.arange(len(events.item)), starts, lengths)
    asked = Lists(items=events.item[places.items], offsets=places.offsets)
    scores, counts = rule.scores(asked, requests.user)
    order = scores + counts * (_NONE / (1 + len(rule.histories.items)))  # decides where there is no score, nowhere else
    order[asked.rows, asked.items] = -1
    # Written from the oldest on: of an item met several times the last time counts, and a purchase ends it for good.
    steps = np.full(order.shape, np.inf, np.float32)
    steps[asked.rows, asked.items] = asked.steps_back
    bought = events.kind(places.items) == KINDS[-1]
    steps[asked.rows[bought], asked.items[bought]] = np.inf
    head, back = _least(steps, min(touched, rule.num_items)) if touched else (np.zeros((len(requests), 0), np.int64), steps)
    row, slot = np.nonzero(np.isfinite(back[:, : head.shape[1]]))
    order[row, head[row, slot]] = _FIRST - slot
    items, _ = _least(-order, min(num, rule.num_items))
    return Proposed(items=items, scores=np.take_along_axis(scores, items, 1), counts=np.take_along_axis(counts, items, 1))


def _least(values: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the places (R, num) of each row's least values, in order, equals by place, and the values."""
    some = np.sort(np.argpartition(values, num - 1, axis=1)[:, :num], axis=1)
    some = np.take_along_axis(some, np.argsort(np.take_along_axis(values, some, 1), axis=1, kind="stable"), 1)
    return some.astype(np.int64), np.take_along_axis(values, some, 1)


def rows(events: Events, requests: Requests, proposed: Proposed, *, window: int, before: int) -> pa.Table:
    """Return a row of SAMPLES with NUMBERS for each request whose list holds an item acted on.

    With a `window` in seconds, other candidates acted on in a foreign domain within it and before the second `before` are
    labels too, at a level of 1 + the domain's place.
    """
    shape = proposed.items.shape
    acted = np.zeros((len(requests), events.num_items), bool)
    acted[requests.targets.rows, requests.targets.items] = True
    own = np.take_along_axis(acted, proposed.items, 1)
    some = own.any(axis=1)
    requests = requests.take(np.flatnonzero(some))
    items, own, scores, counts = (a[some] for a in (proposed.items, own, proposed.scores, proposed.counts))
    ts, domain = (np.broadcast_to(a[:, None], items.shape) for a in (requests.ts, requests.domain))
    pair = requests.user[:, None] * events.num_items + items

    touches, last = events.until(pair, ts)
    carted, bought = (events.until(pair, ts, kind)[0] > 0 for kind in KINDS[1:])
    label, level = own.astype(np.int8), own.astype(np.int8)
    origin, when = np.where(own, domain, -1), np.where(own, ts, -1)
    for place, kind in enumerate(events.domains[1:], start=1):
        if window:
            at = events.after(pair, ts, kind)
            found = (label == 0) & (at >= 0) & (at <= ts + window) & (at < before)
            label[found], level[found], origin[found], when[found] = 1, 1 + place, place, at[found]

    count, slots = len(requests), np.broadcast_to(np.arange(shape[1]), items.shape)
    offsets = pa.array(np.arange(count + 1) * shape[1], pa.int32())
    starts, lengths = events.latest(requests)
    whole = Lists.of(np.arange(len(events.item)), starts, lengths)
    latest = (whole.offsets[:-1] + whole.offsets[1:] - 1)[whole.rows] - np.arange(len(whole.items))  # each list turned round
    latest, bounds = whole.items[latest], pa.array(whole.offsets, pa.int32())

    def candidates(values: Any) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(np.broadcast_to(values, items.shape).ravel()))

    def history(values: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(bounds, pa.array(values))

    foreign = requests.domain > 0
    columns: dict[str, Any] = {
        "request_id": np.where(foreign, -1 - requests.number, requests.number),
        "user_id": requests.user,
        "ts": requests.ts,
        "domain": pa.array(events.domains).take(pa.array(requests.domain)),
        "origin": pa.array(["logged", "searchified"]).take(pa.array(foreign.astype(np.int8))),
        "query_level": np.full(count, -1),
        "history_item_id": history(events.item[latest]),
        "history_kind": history(np.array([KINDS.index(kind) for kind in events.domains])[events.domain[latest]]),
        "history_domain": history(events.domain[latest]),
        "history_age": history(np.repeat(requests.ts, lengths) - events.ts[latest]),
        **{name: candidates(value) for name, value in UNSEEN.items()},
        "item_id": candidates(items),
        "rank": candidates(slots),
        "probability": candidates(1.0),
        "touches": candidates(np.minimum(touches, np.iinfo(np.int16).max)),
        "touch_age": candidates(np.where(touches > 0, ts - last, -1)),
        "click": candidates(label),
        "click_level": candidates(level),
        "click_origin": candidates(origin),
        "click_ts": candidates(when),
    }
    best = scores.max(axis=1, keepdims=True, initial=0)
    numbers = (
        (carted & ~bought).astype(np.float64),
        np.divide(scores, best, out=np.zeros_like(scores), where=best > 0),
        np.log1p(counts) / 4,
    )
    columns |= dict(zip(NUMBERS, map(candidates, numbers), strict=True))
    arrays = [columns.get(f.name, pa.nulls(count, f.type)) for f in ROW]
    return pa.table([pa.array(a).cast(f.type) for a, f in zip(arrays, ROW, strict=True)], schema=ROW)
