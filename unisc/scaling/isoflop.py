"""Approaches 1 and 2: how the optimal size grows with compute, read off the best runs at each budget (arXiv 2203.15556)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisc.errors import InputError
from unisc.scaling.optimum_law import PowerLaw, power_law
from unisc.scaling.runs import Runs, find_budgets
from unisc.scaling.valley import READINGS, Parabola, Valley, read_valley, valley_noise


@dataclass(frozen=True, slots=True)
class IsoFlop:
    """Hold the valleys of a table and, per reading, the power laws of optimal size and data.

    `noise` is the relative standard deviation of a loss: the median over runs where standard errors were given, else estimated.
    A reading with interior optima at fewer than two budgets is absent from `size_law` and `data_law`.
    """

    valleys: tuple[Valley, ...]
    size_law: Mapping[str, PowerLaw]
    data_law: Mapping[str, PowerLaw]
    noise: float
    noise_source: str
    tolerance: float
    parabola: Parabola

    def skipped(self, reading: str) -> tuple[str, ...]:
        """Return one line for every budget that this reading left out."""
        return tuple(f"budget {v.compute:.3g}: {v.skipped[reading]}" for v in self.valleys if reading in v.skipped)

    def to_json(self, level: float = 0.90) -> dict[str, Any]:
        """Return `noise`, `noise_source`, `tolerance`, `valleys`, and per reading `size_law`, `data_law` and `skipped`."""
        readings = {
            name: {
                "size_law": self.size_law[name].to_json(level) if name in self.size_law else None,
                "data_law": self.data_law[name].to_json(level) if name in self.data_law else None,
                "skipped": list(self.skipped(name)),
            }
            for name in READINGS
        }
        return {
            "noise": self.noise,
            "noise_source": self.noise_source,
            "tolerance": self.tolerance,
            "valleys": [valley.to_json() for valley in self.valleys],
            **readings,
        }


def isoflop(
    table: Runs,
    *,
    budgets=None,
    tolerance: float = 0.10,
    parabola: Parabola | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> IsoFlop:
    """Find the valley of every budget and fit optimal size and data against compute: approach 2.

    `budgets` default to those that runs cluster at, or to a factor of two apart over training curves, which are interpolated
    to the budget. A run belongs to a budget within `tolerance` of it. Losses are redrawn `draws` times with their noise; the
    spread of the noisy optima, at least a third of a grid step, weighs a budget (arXiv 2406.19146). Raises `InputError` where
    no budget has three sizes or no valley has a bottom inside the sizes run.
    """
    parabola = parabola or Parabola()
    wanted = _budgets(table, budgets, tolerance)
    found = [(budget, best_per_size(table, budget, tolerance)) for budget in wanted]
    if not any(len(rows["size"]) >= 3 for _, rows in found):
        raise InputError(
            f"no compute budget has runs of 3 sizes within {tolerance:.0%}; run more sizes at a budget or widen the tolerance"
        )
    estimate = valley_noise([(rows["size"], rows["loss"]) for _, rows in found])
    rng = np.random.default_rng(seed)
    valleys = []
    for budget, rows in found:
        spread = rows["se"] if table.se is not None else np.full(len(rows["size"]), estimate)
        noise = spread * rng.standard_normal((draws, len(spread)))
        valleys.append(read_valley(budget, rows["size"], rows["data"], rows["loss"], noise, parabola))
    if not any(valley.optima for valley in valleys):
        raise InputError("no budget has its lowest loss inside its range of sizes; run smaller or larger models at each budget")
    laws: dict[str, dict[str, PowerLaw]] = {"size": {}, "data": {}}
    for reading in READINGS:
        seen = [(valley.compute, valley.optima[reading]) for valley in valleys if reading in valley.optima]
        if len(seen) < 2:
            continue
        compute, std = np.array([budget for budget, _ in seen]), np.array([best.std for _, best in seen])
        for axis in laws:
            value = [getattr(best, axis) for _, best in seen]
            noisy = np.stack([getattr(best, f"{axis}s") for _, best in seen], axis=-1)
            laws[axis][reading] = power_law(compute, value, std, draws=noisy)
    if table.se is not None:
        noise, source = float(np.median(table.se / table.loss)), "standard errors of the table"
    else:
        noise, source = estimate, "residual spread of neighbouring sizes"
    return IsoFlop(tuple(valleys), laws["size"], laws["data"], noise, source, tolerance, parabola)


def _budgets(table: Runs, budgets, tolerance: float) -> np.ndarray:
    if not tolerance > 0:
        raise InputError(f"tolerance is {tolerance}; give a positive share of the budget, such as 0.1")
    if budgets is not None:
        budgets = np.unique(np.asarray(budgets, float))
        if not (len(budgets) and np.all(np.isfinite(budgets) & (budgets > 0))):
            raise InputError("budgets must be positive numbers of FLOPs; give at least one, or leave budgets out")
        return budgets
    if table.curve is None:
        return find_budgets(table.compute, tolerance)
    octaves = np.log2(table.compute.max() / table.compute.min())
    return table.compute.max() / 2.0 ** np.arange(int(octaves), -1, -1)


def best_per_size(table: Runs, budget: float, tolerance: float) -> dict[str, np.ndarray]:
    """Return size, data, loss and relative se (k,) of the best run per size within the tolerance of a budget.

    Training curves that pass the budget are read at the budget itself; the others by their nearest point.
    """
    away = np.abs(np.log(table.compute / budget))
    near = np.flatnonzero(away <= np.log1p(tolerance))
    relative = np.zeros_like(table.loss) if table.se is None else table.se / table.loss
    rows = [(table.size[i], table.data[i], table.loss[i], relative[i]) for i in near]
    if table.curve is not None:
        rows = []
        for label in np.unique(table.curve[near]):
            points = np.flatnonzero(table.curve == label)
            points = points[np.argsort(table.compute[points], kind="stable")]
            x = np.log(table.compute[points])
            close = points[np.argmin(away[points])]
            if x[0] <= np.log(budget) <= x[-1]:
                at = (np.exp(np.interp(np.log(budget), x, np.log(column[points]))) for column in (table.data, table.loss))
                rows.append((table.size[close], *at, relative[close]))
            else:
                rows.append((table.size[close], table.data[close], table.loss[close], relative[close]))
    best: dict[float, tuple] = {}
    for row in rows:
        if row[0] not in best or row[2] < best[row[0]][2]:
            best[row[0]] = row
    columns = np.array([best[size] for size in sorted(best)]).reshape(-1, 4).T
    return dict(zip(("size", "data", "loss", "se"), columns, strict=True))
