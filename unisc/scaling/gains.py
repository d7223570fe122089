"""Gains of a recipe over a baseline at the same sizes, with their standard errors, and metrics relative to the base rate.

A gain is what industry scales: AUC-ROC points, or relative normalised entropy, over the model in production. Paired runs (one
seed, one test set) share most of their noise, so that the gain is known better than either metric; it may have any sign, so
laws of either sign describe it: `fit("power_limit", size, gains.value, se=gains.se, contract=gains.contract)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unisc.errors import InputError
from unisc.scaling.contract import Contract
from unisc.scaling.table import column


@dataclass(frozen=True, kw_only=True, slots=True)
class Gains:
    """Hold gains (k,), above zero where the recipe is better, their standard errors (k,) if known, and the contract to fit.

    `rows` (k,) are the rows that they stand for, the first of each cell, to take sizes at; `num_pairs` (k,) how many it has.
    """

    value: np.ndarray
    se: np.ndarray | None
    rows: np.ndarray
    num_pairs: np.ndarray
    contract: Contract

    def to_json(self) -> dict[str, Any]:
        """Return lists `value`, `se` (or null), `rows`, `num_pairs`, and the `contract`."""
        lists = {name: getattr(self, name).tolist() for name in ("value", "rows", "num_pairs")}
        return lists | {"se": None if self.se is None else self.se.tolist(), "contract": self.contract.to_json()}


def paired_gains(
    baseline,
    recipe,
    *,
    better: Literal["lower", "higher"],
    metric: str,
    relative: bool = False,
    baseline_se=None,
    recipe_se=None,
    correlation: float = 0.0,
    cells: Sequence | None = None,
) -> Gains:
    """Subtract a baseline's metric from a recipe's, run by run (n,): a pair has one size, seed and test set.

    `relative` divides by the baseline. Standard errors come from those of the metrics, whose errors in a pair have the given
    `correlation`; or, with `cells` (n,) naming the pairs that differ by seed alone, from the spread of gains inside the cells,
    pooled over all of them, and each cell's mean is returned.

    Raises:
      InputError: columns of other lengths, one standard error without the other, both kinds at once, or no cell with two pairs.
    """
    base = column(baseline, "baseline", np.size(baseline))
    new = column(recipe, "recipe", len(base))
    if better not in ("lower", "higher"):
        raise InputError(f"better is {better!r}; choose lower or higher")
    if relative and (bad := np.flatnonzero(base == 0)).size:
        raise InputError(f"baseline is 0 in row {bad[0]}, which nothing is relative to; leave relative out")
    if (baseline_se is None) != (recipe_se is None):
        raise InputError("standard errors of one side alone; give both baseline_se and recipe_se, or neither")
    if baseline_se is not None and cells is not None:
        raise InputError("give standard errors or cells; inside cells the spread over seeds tells the error")
    scale = base if relative else np.ones_like(base)
    gain = (new - base) / np.abs(scale) * (1 if better == "higher" else -1)
    contract = Contract(
        space="loss", loss="squared", metric=f"{'relative ' if relative else ''}gain in {metric}", better="higher"
    )
    if cells is not None:
        return _by_cell(gain, np.asarray(cells).astype(str), contract)
    se = None
    if baseline_se is not None:
        if not -1 <= correlation <= 1:
            raise InputError(f"correlation is {correlation}; give one between -1 and 1, 0 if the test sets differ")
        first = column(baseline_se, "baseline_se", len(base), minimum=0.0) * (new / base if relative else 1.0)
        second = column(recipe_se, "recipe_se", len(base), minimum=0.0)
        se = np.sqrt(np.maximum(first**2 + second**2 - 2 * correlation * first * second, 0.0)) / np.abs(scale)
    every = np.arange(len(base))
    return Gains(value=gain, se=se, rows=every, num_pairs=np.ones_like(every), contract=contract)


def _by_cell(gain: np.ndarray, cells: np.ndarray, contract: Contract) -> Gains:
    if cells.shape != gain.shape:
        raise InputError(f"cells has shape {cells.shape} and there are {len(gain)} pairs; give one label a pair")
    _, rows, place, counts = np.unique(cells, return_index=True, return_inverse=True, return_counts=True)
    degrees = len(gain) - len(rows)
    if degrees < 1:
        raise InputError("no cell has two pairs to tell the error by; give several seeds a cell, or standard errors")
    means = np.bincount(place, gain) / counts
    pooled = float(np.sqrt(((gain - means[place]) ** 2).sum() / degrees))
    order = np.argsort(rows)
    se = pooled / np.sqrt(counts[order])
    return Gains(value=means[order], se=se, rows=rows[order], num_pairs=counts[order], contract=contract)


def normalised_entropy(log_loss, base_rate) -> np.ndarray:
    """Return log losses (n,) in nats over the entropy of their base rates (n,), or of one: 1 where only that is known.

    Log loss falls with the share of positives whatever the model does; this does not. Standard errors are divided alike.

    Raises:
      InputError: a base rate that is not between 0 and 1.
    """
    rate = np.asarray(base_rate, float)
    if (bad := np.flatnonzero(~((rate > 0) & (rate < 1)))).size:
        raise InputError(f"base_rate is {rate.ravel()[bad[0]]:g}; give the share of positives, above 0 and below 1")
    return np.asarray(log_loss, float) / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
