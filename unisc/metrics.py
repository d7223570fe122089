"""Exact ranking and calibration metrics in float64. Group g is the rows `offsets[g]:offsets[g + 1]`.

Labels may be probabilities: `auc_roc` then is the expected value under them, and of the true probabilities against themselves
the best any score can expect. Where a rank decides (hr, ndcg, mrr), a tie is broken against the score, so that a constant
score gains nothing from the order of its rows.
"""

import numpy as np
from jaxtyping import Float, Int

from unisc.errors import InputError

Rows = Float[np.ndarray, " n"]
Offsets = Int[np.ndarray, " g1"]
PerGroup = Float[np.ndarray, " g"]


def auc_roc(labels: Rows, scores: Rows, weights: Rows | None = None, *, split: str = "this split") -> float:
    """Area under the ROC curve, ties counted half.

    With labels in [0, 1] it is expected correctly ordered (positive, negative) pairs over expected pairs, a row drawn
    independently of the others and never paired with itself. `split` names the rows in the error.

    Raises:
      InputError: no positives, or no negatives.
    """
    area, pairs = _ordered_pairs(labels, scores, weights, np.array([0, len(labels)]))
    if not pairs[0] > 0:
        _require_both(labels, split)
        raise InputError(f"{split}: a single row carries all its positives and negatives; give more rows")
    return float(area[0] / pairs[0])


def gauc(labels: Rows, scores: Rows, offsets: Offsets, *, split: str = "this split") -> float:
    """Mean of the groups' areas under the ROC curve, weighted by their rows, over groups that have both classes.

    Raises:
      InputError: no group has both a positive and a negative.
    """
    area, pairs = _ordered_pairs(labels, scores, None, offsets)
    usable = pairs > 0
    if not usable.any():
        raise InputError(f"{split}: no group with both a positive and a negative; give more days or requests")
    return float(np.average(area[usable] / pairs[usable], weights=np.diff(offsets)[usable]))


def _ordered_pairs(labels: Rows, scores: Rows, weights: Rows | None, offsets: Offsets) -> tuple[PerGroup, PerGroup]:
    """Count for each group the (positive, negative) pairs in order, ties half, and all pairs."""
    y, s = _as_float64(labels, scores)
    w = np.ones_like(y) if weights is None else np.asarray(weights, np.float64)
    num_groups = len(offsets) - 1
    group = np.repeat(np.arange(num_groups), np.diff(offsets))
    order = np.lexsort((s, group))
    y, s, w, group = y[order], s[order], w[order], group[order]
    positive, negative = w * y, w * (1 - y)
    fresh = np.ones(len(s), bool)  # the first row of each set of tied rows
    fresh[1:] = (s[1:] != s[:-1]) | (group[1:] != group[:-1])
    tie = np.cumsum(fresh) - 1
    tied_negative = np.bincount(tie, weights=negative)
    tie_group = group[fresh]
    total_negative = np.bincount(group, weights=negative, minlength=num_groups)
    below = np.cumsum(tied_negative) - tied_negative
    # Sums restart in each group, so that a small group's count is not the difference of two large ones beyond rounding.
    below = below - (np.cumsum(total_negative) - total_negative)[tie_group]
    own = positive * negative  # a row's own two outcomes, which never meet; 0 for labels of 0 and 1
    ordered = positive * (below[tie] + 0.5 * tied_negative[tie]) - 0.5 * own
    total_positive = np.bincount(group, weights=positive, minlength=num_groups)
    pairs = total_positive * total_negative - np.bincount(group, weights=own, minlength=num_groups)
    return np.bincount(group, weights=ordered, minlength=num_groups), pairs


def cross_entropy(labels: Rows, logits: Rows) -> Rows:
    """Negative log likelihood of each row, in nats, from logits; labels may be probabilities."""
    y, z = _as_float64(labels, logits)
    return np.logaddexp(0, z) - y * z


def log_loss(labels: Rows, logits: Rows, weights: Rows | None = None) -> float:
    """Mean negative log likelihood in nats, from logits, so that no probability rounds to 0 or 1."""
    return float(np.average(cross_entropy(labels, logits), weights=weights))


def entropy(probabilities: Rows) -> Rows:
    """Entropy of each row's Bernoulli distribution, in nats."""
    p = np.asarray(probabilities, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(x > 0, -x * np.log(x), 0.0) for x in (p, 1 - p)]
    return terms[0] + terms[1]


def ne(labels: Rows, logits: Rows, *, split: str = "this split") -> float:
    """Normalised entropy: log loss over that of always giving the labels' mean.

    Raises:
      InputError: no positives, or no negatives.
    """
    _require_both(labels, split)
    return log_loss(labels, logits) / float(entropy(np.array([np.mean(labels, dtype=np.float64)]))[0])


def calibration(labels: Rows, logits: Rows, *, split: str = "this split") -> float:
    """Mean prediction over mean label.

    Raises:
      InputError: no positives.
    """
    y, z = _as_float64(labels, logits)
    if not y.sum() > 0:
        raise InputError(f"{split}: no positives; give more days or requests")
    return float(sigmoid(z).mean() / y.mean())


def sigmoid(logits: Rows) -> Rows:
    """Logistic function in float64."""
    return np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64)))


def ranks(labels: Rows, scores: Rows, offsets: Offsets) -> Int[np.ndarray, " n"]:
    """Each row's rank in its group, 1 for the highest score; among equal scores, lower labels come first."""
    y, s = _as_float64(labels, scores)
    group = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((y, -s, group))
    out = np.empty(len(s), np.int64)
    out[order] = np.arange(len(s)) - np.repeat(np.asarray(offsets)[:-1], np.diff(offsets)) + 1
    return out


def hr_at(k: int, labels: Rows, scores: Rows, offsets: Offsets) -> PerGroup:
    """For each group with a positive, 1 if a positive is among the k highest scores, else 0; NaN for the other groups."""
    hit = (ranks(labels, scores, offsets) <= k) & (np.asarray(labels) > 0)
    return np.where(_group_sum(labels, offsets) > 0, _group_sum(hit, offsets) > 0, np.nan)


def mrr(labels: Rows, scores: Rows, offsets: Offsets) -> PerGroup:
    """For each group with a positive, the reciprocal rank of its best-ranked positive; NaN for the other groups."""
    reciprocal = np.where(np.asarray(labels) > 0, 1 / ranks(labels, scores, offsets), 0.0)
    best = np.zeros(len(offsets) - 1)
    np.maximum.at(best, np.repeat(np.arange(len(best)), np.diff(offsets)), reciprocal)
    return np.where(best > 0, best, np.nan)


def ndcg_at(k: int | None, labels: Rows, scores: Rows, offsets: Offsets) -> PerGroup:
    """For each group with a positive, gain of the k highest scores (of all, if k is None) over the best order's; NaN else.

    A row's gain is its label over log2(rank + 1).
    """
    y, _ = _as_float64(labels, scores)
    gains = []
    for order in (scores, labels):
        rank = ranks(labels, order, offsets)
        counted = np.ones(len(y), bool) if k is None else rank <= k
        gains.append(_group_sum(np.where(counted, y / np.log2(rank + 1), 0.0), offsets))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(gains[1] > 0, gains[0] / gains[1], np.nan)


def gain_at(k: int, gains: Rows, scores: Rows, offsets: Offsets) -> PerGroup:
    """For each group, the sum of the gains of its k highest scores over that of its k highest gains; NaN where that is 0."""
    g, _ = _as_float64(gains, scores)
    sums = [_group_sum(np.where(ranks(g, order, offsets) <= k, g, 0.0), offsets) for order in (scores, gains)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[1] > 0, sums[0] / sums[1], np.nan)


def found_at(
    k: int, rank: Int[np.ndarray, " f"], group: Int[np.ndarray, " f"], num_targets: Int[np.ndarray, " g"]
) -> dict[str, PerGroup]:
    """Metrics of the k highest of a whole catalogue, from the targets that were found: their ranks from 1, and their groups.

    Group g had `num_targets[g]` targets, each a gain of 1 and each a miss if it is not among those found. Returns for each
    group `recall` (share of its targets in the top k), `hr` (1 if any is), `mrr` (reciprocal rank of the first, 0 beyond k)
    and `ndcg`.

    Raises:
      InputError: a group without targets, or with more found than it had.
    """
    top, where, num_groups = rank[rank <= k], group[rank <= k], len(num_targets)
    if (num_targets < 1).any() or (np.bincount(group, minlength=num_groups) > num_targets).any():
        raise InputError("targets: a group has none, or fewer than were found; give what was to be found for each group")
    hits = np.bincount(where, minlength=num_groups)
    first = np.full(num_groups, np.inf)
    np.minimum.at(first, where, top)
    best = np.cumsum(1 / np.log2(np.arange(k) + 2))
    gains = np.bincount(where, weights=1 / np.log2(top + 1), minlength=num_groups)
    return {
        "recall": hits / num_targets,
        "hr": (hits > 0).astype(np.float64),
        "mrr": 1 / first,
        "ndcg": gains / best[np.minimum(num_targets, k) - 1],
    }


def _group_sum(values: np.ndarray, offsets: Offsets) -> PerGroup:
    group = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return np.bincount(group, weights=np.asarray(values, np.float64), minlength=len(offsets) - 1)


def _as_float64(labels: np.ndarray, scores: np.ndarray) -> tuple[Rows, Rows]:
    y, s = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if y.shape != s.shape:
        raise InputError(f"{y.shape} labels against {s.shape} scores; give one score a label")
    if np.isnan(s).any() or np.isnan(y).any():
        raise InputError(f"{np.isnan(s).sum()} scores and {np.isnan(y).sum()} labels are NaN; give numbers")
    return y, s


def _require_both(labels: np.ndarray, split: str) -> None:
    y = np.asarray(labels, np.float64)
    for missing, kind in ((not y.sum() > 0, "positives"), (not (1 - y).sum() > 0, "negatives")):
        if missing:
            raise InputError(f"{split} without {kind}: give more days or requests")
