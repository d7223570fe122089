"""Semantic collapse, measured from attention maps: sinks, barcodes, and whether a history's contents are read at all.

A model that has collapsed treats each item of a history as a slot and not as what the slot says: all users' maps look alike, a
barcode, some slots draw attention whatever stands in them, and other contents change nothing (KARMA, arXiv 2603.22779). All
functions take maps (L, B, N, T, T) of a causal decoder (`unisc.models.decoder.Decoder.attention_maps`), rows the queries;
`valid` (B, T) says which tokens are real; `slots` (B, S) names the columns of the history's items, oldest first, -1 for none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unisc.errors import InputError

THRESHOLD = 0.3
"""A key of more importance is a sink (sail-sg/Attention-Sink, whose maps had 64 tokens)."""
RESAMPLES = 1000

Maps = Float[np.ndarray, "L B N T T"]
Valid = Bool[np.ndarray, "B T"]
Slots = Int[np.ndarray, "B S"]
SlotRows = Float[np.ndarray, "L B N S"]


class Estimate(NamedTuple):
    """A mean over users with its 90 % bootstrap interval; NaN where no user has the measure."""

    value: float
    low: float
    high: float
    num_users: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Collapse:
    """What `measure` found. A collapsed model has a high sink rate and cosine and a low entropy and sensitivity.

    `sink_rate` is in percent; `entropy` and `cosine` are from 0 to 1, or -1 for a centred cosine; `cosine_change` is the cosine
    with shuffled contents less that with true ones, and `sensitivity` one less the cosine of a user's rows before and after.
    """

    sink_rate: Estimate
    entropy: Estimate
    cosine: Estimate
    cosine_change: Estimate | None = None
    sensitivity: Estimate | None = None


def measure(
    maps: Maps,
    valid: Valid,
    slots: Slots,
    *,
    shuffled: Maps | None = None,
    skip_first: bool = True,
    threshold: float = THRESHOLD,
    centred: bool = False,
    seed: int = 0,
) -> Collapse:
    """Measure a batch of users; `shuffled` are the maps of the same users with other contents (`shuffle_contents`).

    With `skip_first` a slot that is a row's first real token is left out of the sinks: the first token draws attention in
    nearly every trained model, whatever it is.

    Raises:
      InputError: maps, masks and slots that do not belong together.
    """
    check(maps, valid, slots)
    rng = np.random.default_rng(seed)
    present = slots >= 0
    sinks = at_slots(importance(maps, valid), slots) > threshold
    counted = present & ~(skip_first & (slots == first_token(valid)[:, None]))
    share = _mean_where(sinks.mean(axis=(0, 2)), counted)
    rows = slot_rows(maps, valid, slots)
    alike = pairwise_cosine(rows, present, centred=centred)
    found = Collapse(
        sink_rate=over_users(100 * share, rng),
        entropy=over_users(normalised_entropy(maps, valid, slots), rng),
        cosine=over_pairs(alike, rng),
    )
    if shuffled is None:
        return found
    check(shuffled, valid, slots)
    other = slot_rows(shuffled, valid, slots)
    own = _cosine(rows, other, present, centred=centred)
    return Collapse(
        sink_rate=found.sink_rate,
        entropy=found.entropy,
        cosine=found.cosine,
        cosine_change=over_pairs(pairwise_cosine(other, present, centred=centred) - alike, rng),
        sensitivity=over_users(1 - own, rng),
    )


def importance(maps: Maps, valid: Valid) -> Float[np.ndarray, "L B N T"]:
    """Return each key's mean attention from the real queries that see it, NaN for padding (Attention-Sink's definition).

    Uniform causal attention over T tokens gives key k, from 0, (1 / (T - k)) sum over i from k of 1 / (i + 1).
    """
    asked = np.where(valid[:, None, :, None], maps, 0.0).sum(axis=3)
    later = np.flip(np.cumsum(np.flip(valid, axis=1), axis=1), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(valid, 1.0, np.nan)[:, None] * (asked / later[:, None])


def sink_rate(maps: Maps, valid: Valid, *, threshold: float = THRESHOLD) -> Float[np.ndarray, " T"]:
    """Return for each column the percentage of (layer, row, head) where it is a sink, of those where it is a real token."""
    found = importance(maps, valid)
    sinks = (np.nan_to_num(found) > threshold).sum(axis=(0, 1, 2))
    real = valid.sum(axis=0) * maps.shape[0] * maps.shape[2]
    return np.where(real > 0, 100 * sinks / np.maximum(real, 1), np.nan)


def normalised_entropy(maps: Maps, valid: Valid, slots: Slots) -> Float[np.ndarray, " B"]:
    """Return the entropy of the last real token's attention over the items, of its most: 1 is even, 0 is all on one item.

    The shares are scaled to sum to 1 over the items. A mean over layers and heads; NaN for fewer than two items.
    """
    last = valid.shape[1] - 1 - np.argmax(valid[:, ::-1], axis=1)
    rows = np.take_along_axis(maps, last[None, :, None, None, None], axis=3)[:, :, :, 0]
    present = slots >= 0
    shares = np.where(present[:, None], at_slots(rows, slots), 0.0).astype(np.float64)
    total = shares.sum(axis=-1, keepdims=True)
    shares = np.where(
        total > 0, shares / np.where(total > 0, total, 1), present[:, None] / np.maximum(present.sum(1), 1)[:, None, None]
    )
    terms = -shares * np.log(np.where(shares > 0, shares, 1.0))
    count = present.sum(axis=1)
    most = np.log(np.maximum(count, 2))
    return np.where(count > 1, terms.sum(axis=-1).mean(axis=(0, 2)) / most, np.nan)


def slot_rows(maps: Maps, valid: Valid, slots: Slots) -> SlotRows:
    """Return the attention each item draws from what comes after it: a mean over later items and the last real token.

    0 where there is no item. These rows, one a layer and head, are what is compared across users.
    """
    num_users, length = valid.shape
    reads = np.zeros((num_users, length + 1), bool)
    reads[np.arange(num_users)[:, None], np.where(slots >= 0, slots, length)] = True
    reads[np.arange(num_users), length - 1 - np.argmax(valid[:, ::-1], axis=1)] = True
    later = np.tril(np.ones((length, length), bool), -1) & (reads[:, :length] & valid)[:, :, None]
    sums = np.where(later[None, :, None], maps, 0.0).sum(axis=3)
    means = sums / np.maximum(later.sum(axis=1), 1)[None, :, None]
    return np.where(slots[None, :, None] >= 0, at_slots(means, slots), 0.0)


def pairwise_cosine(rows: SlotRows, present: Bool[np.ndarray, "B S"], *, centred: bool = False) -> Float[np.ndarray, "B B"]:
    """Return the cosine of two users' rows over the slots that both have, a mean over layers and heads.

    Shares are positive, so that any two rows have a high cosine; with `centred` each row's own mean is taken off first, and
    unrelated rows give 0. A row that is all zero then gives 0, too.
    """
    total = np.zeros((len(present), len(present)))
    shared = present.astype(np.float64)
    for layer in rows:
        for head in np.moveaxis(_prepared(layer, present, centred=centred), 1, 0):
            square = (head * head) @ shared.T  # of row u over the slots that v has
            total += _ratio(head @ head.T, square * square.T)
    return total / (rows.shape[0] * rows.shape[2])


def at_slots(columns: Float[np.ndarray, "L B N T"], slots: Slots) -> Float[np.ndarray, "L B N S"]:
    """Return the values in the columns of the items; where there is none, those of column 0."""
    where = np.broadcast_to(np.maximum(slots, 0)[None, :, None], (*columns.shape[:3], slots.shape[1]))
    return np.take_along_axis(columns, where, axis=3)


def first_token(valid: Valid) -> Int[np.ndarray, " B"]:
    """Return the column of each row's first real token."""
    return np.argmax(valid, axis=1)


def shuffle_contents(items: Int[np.ndarray, "B S"], present: Bool[np.ndarray, "B S"], *, seed: int) -> Int[np.ndarray, "B S"]:
    """Return the items of all users dealt out anew over all their slots: as many a user, none of them their own on purpose."""
    out = items.copy()
    out[present] = np.random.default_rng(seed).permutation(items[present])
    return out


def over_users(values: Float[np.ndarray, " B"], rng: np.random.Generator) -> Estimate:
    """Return the mean of the users who have the measure, with a bootstrap over them."""
    real = values[~np.isnan(values)]
    if not len(real):
        return Estimate(np.nan, np.nan, np.nan, 0)
    return _estimate(float(real.mean()), len(real), lambda counts: counts @ real / counts.sum(), rng)


def over_pairs(values: Float[np.ndarray, "B B"], rng: np.random.Generator) -> Estimate:
    """Return the mean over pairs of different users, with a bootstrap over the users; one drawn twice is no pair."""
    apart = values * (1 - np.eye(len(values)))
    if len(values) < 2:
        return Estimate(np.nan, np.nan, np.nan, 0)

    def mean(counts: np.ndarray) -> float:
        pairs = counts.sum() ** 2 - (counts**2).sum()
        return counts @ apart @ counts / pairs if pairs else np.nan

    return _estimate(mean(np.ones(len(values))), len(values), mean, rng)


def check(maps: np.ndarray, valid: np.ndarray, slots: np.ndarray) -> None:
    """Check that maps, mask and slots belong together. Raises InputError."""
    if maps.ndim != 5 or maps.shape[3] != maps.shape[4]:
        raise InputError(f"maps: shape {maps.shape}; give (layers, users, heads, tokens, tokens)")
    if valid.shape != (maps.shape[1], maps.shape[4]) or len(slots) != maps.shape[1] or slots.ndim != 2:
        raise InputError(
            f"maps {maps.shape}, valid {valid.shape}, slots {slots.shape}: give those of the same users and tokens"
        )
    if slots.max(initial=-1) >= valid.shape[1] or not np.take_along_axis(valid, np.maximum(slots, 0), axis=1)[slots >= 0].all():
        raise InputError("slots: one is no real token; give columns of items, and -1 where there is none")


def _estimate(value: float, num_users: int, mean: Callable[[np.ndarray], float], rng: np.random.Generator) -> Estimate:
    drawn = rng.multinomial(num_users, np.full(num_users, 1 / num_users), size=RESAMPLES)
    low, high = np.nanquantile([mean(counts.astype(np.float64)) for counts in drawn], [0.05, 0.95])
    return Estimate(float(value), float(low), float(high), num_users)


def _mean_where(values: Float[np.ndarray, "B S"], counted: Bool[np.ndarray, "B S"]) -> Float[np.ndarray, " B"]:
    count = counted.sum(axis=1)
    return np.where(count > 0, np.where(counted, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _cosine(a: SlotRows, b: SlotRows, present: np.ndarray, *, centred: bool) -> Float[np.ndarray, " B"]:
    x, y = (np.stack([_prepared(layer, present, centred=centred) for layer in rows]) for rows in (a, b))
    found = _ratio((x * y).sum(axis=-1), (x * x).sum(axis=-1) * (y * y).sum(axis=-1)).mean(axis=(0, 2))
    return np.where(present.any(axis=1), found, np.nan)


def _prepared(rows: Float[np.ndarray, "B N S"], present: np.ndarray, *, centred: bool) -> Float[np.ndarray, "B N S"]:
    wide, mask = rows.astype(np.float64), present[:, None]
    if centred:
        wide = wide - wide.sum(axis=-1, keepdims=True, where=mask) / np.maximum(mask.sum(axis=-1, keepdims=True), 1)
    return np.where(mask, wide, 0.0)


def _ratio(product: np.ndarray, squares: np.ndarray) -> np.ndarray:
    return np.where(squares > 1e-24, product / np.sqrt(np.where(squares > 1e-24, squares, 1.0)), 0.0)
