"""What rules over the whole catalogue reach on the test requests of histories: the floors that a funnel has to beat."""

import numpy as np

from data_gen.public.histories import Histories, Requests
from unisc import metrics

TOP = 20


def floors(found: Histories, test: Requests, *, num_items: int) -> dict[str, dict[str, float]]:
    """Return the mean metrics at TOP (see `metrics.found_at`) of each rule, learned from the train histories.

    `popularity` ranks all items by how often train histories hold them, in histories without order less those of the history
    at hand; `followers`, where there is an order, by how often they came right after the last item (first-order Markov), equals
    as they first did.
    """
    ranks = {"popularity": _popularity(found, test, num_items)}
    if found.ordered:
        ranks["followers"] = _followers(found, test, num_items)
    result = {}
    for rule, rank in ranks.items():
        known = rank > 0
        each = metrics.found_at(TOP, rank[known], test.targets.rows[known], test.targets.lengths)
        result[rule] = {f"{name}@{TOP}": float(values.mean()) for name, values in each.items()}
    return result


def _popularity(found: Histories, test: Requests, num_items: int) -> np.ndarray:
    """Rank each target, from 1; 0 if it is an item of its own history, which is left out."""
    place = np.empty(num_items, np.int64)
    place[np.argsort(-np.bincount(found.train.items, minlength=num_items), kind="stable")] = np.arange(num_items)
    targets, asked = test.targets, test.asked
    rank = 1 + place[targets.items]
    if found.ordered:
        return rank
    ahead = np.sort(asked.rows * num_items + place[asked.items])
    key = targets.rows * num_items + place[targets.items]
    at = np.searchsorted(ahead, key)
    known = np.append(ahead, -1)[at] == key
    return np.where(known, 0, rank - at + np.searchsorted(ahead, targets.rows * num_items))


def _followers(found: Histories, test: Requests, num_items: int) -> np.ndarray:
    """Rank each target among the followers of the last item, from 1; 0 if it never followed."""
    same = np.diff(found.train.rows) == 0
    key = found.train.items[:-1][same] * num_items + found.train.items[1:][same]
    pairs, first, counts = np.unique(key, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts, pairs // num_items))
    starts = np.searchsorted(pairs // num_items, np.arange(num_items))  # the order of pairs keeps those of an item together
    rank = np.empty(len(pairs), np.int64)
    rank[order] = np.arange(len(pairs)) - starts[pairs[order] // num_items] + 1
    wanted = test.asked.items[test.asked.offsets[1:] - 1][test.targets.rows] * num_items + test.targets.items
    at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    return np.where(pairs[at] == wanted, rank[at], 0)
