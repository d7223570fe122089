"""Proposed candidates as rows of samples; what the columns mean where nothing was recorded is said in `retrieved`."""

from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from data_gen.public.histories import Requests
from data_gen.public.item_to_item import ItemToItem, Proposed
from unisc.data.schema import NUMBER, SAMPLES

DOMAIN = "next"
HISTORY_LEN = 50
"""Latest items of a history that a sample keeps; retrieval sees all of them."""
NUMBERS = tuple(NUMBER + name for name in ("score_over_best", "log_score", "log_count", "reciprocal_rank"))
ROW = pa.schema([*SAMPLES, *((name, pa.list_(pa.float32())) for name in NUMBERS)])

UNSEEN = MappingProxyType(
    {
        "exposed": True,
        "position": -1,
        "price": np.nan,
        "propensity": np.nan,
        "click_weight": 1.0,
        "purchase": 0,
        "purchase_level": 0,
        "purchase_origin": -1,
        "purchase_ts": -1,
        "purchase_weight": 1.0,
    }
)
"""What every candidate of a proposed list holds, which nobody saw: it counts as shown, and nothing was bought from it."""


def rows(
    rule: ItemToItem,
    requests: Requests,
    proposed: Proposed,
    target: np.ndarray,
    kept: np.ndarray,
    chance: np.ndarray,
    request_id: np.ndarray,
) -> pa.Table:
    """Return a row of SAMPLES with NUMBERS for each request that keeps a candidate.

    `target`, `kept` and `chance` are (R, K) as the proposed items: what is labelled, what stays, and how likely it was to stay.
    """
    asked, some = requests.asked, np.asarray(kept.any(axis=1))
    shape = (len(asked), rule.num_items)
    touches, age = np.zeros(shape, np.int64), np.full(shape, -1)
    steps = asked.steps_back + 1 if rule.ordered else np.ones_like(asked.items)
    np.add.at(touches, (asked.rows, asked.items), 1)
    age[asked.rows, asked.items] = steps  # of an item met several times the last one counts, which is written last
    best = proposed.scores.max(axis=1, keepdims=True)
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1)[some])])

    def candidates(values: Any) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.broadcast_to(values, kept.shape)[kept]))

    recent = asked.steps_back < HISTORY_LEN
    latest = np.flatnonzero(recent & some[asked.rows])
    latest = latest[np.lexsort((asked.steps_back[latest], asked.rows[latest]))]
    bounds = np.concatenate([[0], np.cumsum(np.minimum(asked.lengths, HISTORY_LEN)[some])])

    def history(values: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), pa.array(values[latest]))

    label = target.astype(np.int8)
    ts = np.broadcast_to(asked.lengths[:, None], kept.shape)
    columns: dict[str, Any] = {
        "request_id": request_id[some],
        "user_id": requests.user[some],
        "ts": asked.lengths[some],
        "domain": pa.repeat(DOMAIN, int(some.sum())),
        "origin": pa.repeat("logged", int(some.sum())),
        "query_level": np.full(int(some.sum()), -1),
        "history_item_id": history(asked.items),
        "history_kind": history(np.zeros_like(asked.items)),
        "history_domain": history(np.zeros_like(asked.items)),
        "history_age": history(steps),
        **{name: candidates(value) for name, value in UNSEEN.items()},
        "item_id": candidates(proposed.items),
        "rank": candidates(np.arange(kept.shape[1])),
        "probability": candidates(chance),
        "touches": candidates(np.take_along_axis(touches, proposed.items, 1)),
        "touch_age": candidates(np.take_along_axis(age, proposed.items, 1)),
        "click": candidates(label),
        "click_level": candidates(label),
        "click_origin": candidates(label - 1),
        "click_ts": candidates(np.where(target, ts, -1)),
    }
    numbers = (
        np.divide(proposed.scores, best, out=np.zeros_like(proposed.scores), where=best > 0),
        np.log1p(1000 * proposed.scores) / 4,
        np.log1p(proposed.counts) / 4,
        np.broadcast_to(1 / (1 + np.arange(kept.shape[1])), kept.shape),
    )
    columns |= dict(zip(NUMBERS, map(candidates, numbers), strict=True))
    arrays = [columns.get(f.name, pa.nulls(int(some.sum()), f.type)) for f in ROW]
    return pa.table([pa.array(a).cast(f.type) for a, f in zip(arrays, ROW, strict=True)], schema=ROW)
