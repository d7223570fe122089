"""Approach 1: the best loss that any run reached at each compute, and the power of its size (arXiv 2203.15556, section 3.1)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from unisc.errors import InputError
from unisc.scaling.optimum_law import PowerLaw, power_law, weighted_power
from unisc.scaling.runs import Runs, find_budgets

_CURVE_POINTS = 100  # Compute values at which training curves are compared.


@dataclass(frozen=True, slots=True)
class Envelope:
    """Hold the envelope's points (m,) and the power laws of its size and data.

    A compute value whose best run is the smallest or the largest of those that reach it is left out, since the optimum may lie
    beyond; `skipped` counts them. Sizes are those that were run, so the envelope is as coarse as the table.
    """

    compute: np.ndarray
    size: np.ndarray
    data: np.ndarray
    loss: np.ndarray
    size_law: PowerLaw
    data_law: PowerLaw
    source: str
    skipped: int

    def to_json(self, level: float = 0.90) -> dict[str, Any]:
        """Return `source`, `num_points`, `skipped`, `size_law` and `data_law`."""
        return {
            "source": self.source,
            "num_points": len(self.compute),
            "skipped": self.skipped,
            "size_law": self.size_law.to_json(level),
            "data_law": self.data_law.to_json(level),
        }


def envelope(
    table: Runs, *, bins_per_decade: float | None = None, tolerance: float = 0.10, draws: int = 1000, seed: int = 0
) -> Envelope:
    """Take the best run per compute and fit its size and data against compute.

    Training curves are compared at 100 values of compute, and whole curves are resampled for the intervals. Without curves the
    best run per bin of ln compute is taken, and the intervals are those of least squares; bins are the budgets that runs
    cluster at, or `bins_per_decade` where given or where there are no budgets of 3 sizes (4 a decade then). Raises
    `InputError` where fewer than two points have their best run inside.
    """
    if table.curve is not None:
        return _of_curves(table, draws, seed)
    lowest, chosen, skipped = np.log10(table.compute.min()), [], 0
    group = np.abs(np.log(table.compute[:, None] / find_budgets(table.compute, tolerance))).argmin(axis=1)
    source = "budgets"
    counts = [len(np.unique(table.size[group == label])) for label in np.unique(group)]
    if bins_per_decade is not None or sum(count >= 3 for count in counts) < 2:
        width = 1 / (bins_per_decade or 4)
        group, source = np.floor((np.log10(table.compute) - lowest) / width).astype(int), f"bins of {width:.3g} decades"
    for label in np.unique(group):
        rows = np.flatnonzero(group == label)
        best = rows[table.loss[rows].argmin()]
        if table.size[rows].min() < table.size[best] < table.size[rows].max():
            chosen.append(best)
        else:
            skipped += 1
    if len(chosen) < 2:
        raise InputError(
            f"the envelope has {len(chosen)} points whose best run is neither the smallest nor the largest; run more sizes"
        )
    compute, size, data, loss = (column[chosen] for column in (table.compute, table.size, table.data, table.loss))
    size_law, data_law = (power_law(compute, value, seed=seed, num_draws=draws) for value in (size, data))
    return Envelope(compute, size, data, loss, size_law, data_law, source, skipped)


def _of_curves(table: Runs, draws: int, seed: int) -> Envelope:
    assert table.curve is not None
    labels = np.unique(table.curve)
    grid = np.geomspace(table.compute.min(), table.compute.max(), _CURVE_POINTS)
    size, data, loss = (np.full((len(labels), len(grid)), np.nan) for _ in range(3))
    for row, label in enumerate(labels):
        points = np.flatnonzero(table.curve == label)
        points = points[np.argsort(table.compute[points], kind="stable")]
        x = np.log(table.compute[points])
        reached = (np.log(grid) >= x[0]) & (np.log(grid) <= x[-1])
        for out, column in ((size, table.size), (data, table.data), (loss, table.loss)):
            out[row, reached] = np.exp(np.interp(np.log(grid[reached]), x, np.log(column[points])))
    best = _lowest(size, loss)
    if np.sum(best >= 0) < 2:
        raise InputError("no compute has a best training curve between a smaller and a larger one; add curves of more sizes")
    keep = best >= 0
    compute = grid[keep]
    best_size, best_data, best_loss = (matrix[best[keep], keep] for matrix in (size, data, loss))
    rng = np.random.default_rng(seed)
    noisy = np.full((2, draws, len(grid)), np.nan)
    for draw in range(draws):
        taken = np.unique(rng.integers(0, len(labels), len(labels)))
        found = _lowest(size[taken], loss[taken])
        inside = found >= 0
        for axis, matrix in enumerate((size, data)):
            noisy[axis, draw, inside] = matrix[taken[found[inside]], inside]
    method = f"bootstrap of {len(labels)} training curves"
    laws = (
        power_law(compute, value, refits=weighted_power(grid, many), method=method)
        for value, many in zip((best_size, best_data), noisy, strict=True)
    )
    size_law, data_law = laws
    source = f"{len(labels)} training curves"
    return Envelope(compute, best_size, best_data, best_loss, size_law, data_law, source, int(np.sum(~keep)))


def _lowest(size: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Return per column the row of the lowest loss, or -1 where no row reaches it or the best has no size on both sides."""
    filled = np.where(np.isnan(loss), np.inf, loss)
    best = filled.argmin(axis=0)
    chosen = np.where(np.isnan(size[best, np.arange(size.shape[1])]), np.inf, size[best, np.arange(size.shape[1])])
    with np.errstate(invalid="ignore"):
        between = (np.any(size < chosen, axis=0)) & np.any(size > chosen, axis=0)
    return np.where(between & np.isfinite(chosen), best, -1)
