"""What ranking without learning reaches on lists with one chosen item: the floors a model has to beat."""

import math
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_gen.public.trivago_source import Timelines
from unisc.data import manifest


def floors(source: Timelines) -> dict[str, dict[str, float]]:
    """Rank every list without learning and measure MRR and NDCG of the chosen hotel (0 where it was not in the list).

    Returns `shown_order`, `cheapest_first` and `last_touched_first` (hotels of this session's earlier actions and click-outs,
    the latest first, then the rest as shown), each with `mrr` and `ndcg`, and `clickouts`, their number. See
    `floors_of_samples` for the same numbers from sample directories.
    """
    request = np.repeat(np.arange(len(source.bounds) - 1), np.diff(source.bounds))
    chosen = source.item[source.clickout][request] == source.listed_item
    ts, session = source.ts[source.clickout], source.session[source.clickout]
    span = int(source.ts.max()) + 2 if len(source.ts) else 1
    key = (source.session.astype(np.int64) * source.num_items + source.item) * span + source.ts
    order = np.sort(key)
    wanted = (session[request].astype(np.int64) * source.num_items + source.listed_item) * span + ts[request]
    place = np.searchsorted(order, wanted) - 1  # the last action strictly before the request, of this or a smaller key
    found = order[np.maximum(place, 0)]
    touched = (place >= 0) & (found // span == wanted // span)
    age = np.where(touched, wanted - found, -1)
    return rank_floors(source.bounds, chosen, source.listed_price, age)


def floors_of_samples(directory: Path, split: str = "test") -> dict[str, dict[str, float]]:
    """Return `floors` of one split ("train" or "test") of a sample directory, from its touch_age feature and page labels."""
    manifest.read(directory, kind="samples")
    columns = ["item_id", "price", "touch_age", "click_level", "origin"]
    rows = pq.read_table(directory / split, columns=columns)
    rows = rows.filter(pc.equal(rows["origin"], "logged"))
    flat = {c: pc.list_flatten(rows[c]).to_numpy() for c in ("price", "touch_age", "click_level")}
    bounds = np.concatenate([[0], np.cumsum(pc.list_value_length(rows["item_id"]).to_numpy())])
    return rank_floors(bounds, flat["click_level"] == 1, flat["price"], flat["touch_age"])


def rank_floors(bounds: np.ndarray, chosen: np.ndarray, price: np.ndarray, age: np.ndarray) -> dict[str, dict[str, float]]:
    """Measure the three floors on lists in shown order: bounds (R + 1), then per entry chosen, price and age (-1 untouched)."""
    request = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    shown = np.arange(len(request)) - bounds[:-1][request]
    keys = {
        "shown_order": shown,
        "cheapest_first": price,
        "last_touched_first": np.where(age < 0, np.inf, age),
    }
    result = {}
    for name, key in keys.items():
        order = np.lexsort((shown, key, request))
        rank = np.empty(len(request), np.int64)
        rank[order] = shown  # sorted by request first, so each request's slots are handed out again in the new order
        best = np.full(len(bounds) - 1, np.inf)
        np.minimum.at(best, request[chosen], rank[chosen] + 1.0)
        # fsum, since the same lists come in another order from samples than from logs.
        mrr, ndcg = (math.fsum(gain) / len(best) for gain in (1 / best, 1 / np.log2(1 + best)))
        result[name] = {"mrr": mrr, "ndcg": ndcg, "clickouts": len(best)}
    return result
