"""The bottom of an IsoFLOP valley: where, over the sizes run at one compute budget, the loss is lowest, and how surely.

Two readings are kept side by side. `akima` interpolates ln loss in ln size and takes the lowest point of a fine geometric grid
(arXiv 2406.19146); `parabola` fits a quadratic of loss in ln size around the best run, as is commonly done (arXiv 2203.15556).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from unisc.errors import InputError

READINGS = ("akima", "parabola")
_PER_INTERVAL = 25  # Grid points between neighbouring sizes, as published.
_FLOOR_STEPS = 1 / 3  # The bottom is known no better than this share of the spacing of sizes, as published.


@dataclass(frozen=True, kw_only=True, slots=True)
class Parabola:
    """Say what the parabola sees: `points` sizes around the best run, None for all.

    With `outside` a vertex beyond the sizes run counts too, as in arXiv 2603.22339; it is an extrapolation.
    """

    points: int | None = 5
    outside: bool = False

    def __post_init__(self):
        if self.points is not None and self.points < 3:
            raise InputError(f"parabola: points is {self.points}; give 3 or more, or None for all sizes")


@dataclass(frozen=True, slots=True)
class Optimum:
    """Hold a valley's bottom: size, data, loss, standard deviation of ln size, and noisy optima (S,) as sizes and data."""

    size: float
    data: float
    loss: float
    std: float
    sizes: np.ndarray
    datas: np.ndarray


@dataclass(frozen=True, slots=True)
class Valley:
    """Hold one budget's best run per size: sizes, data and losses (k,), smallest first, and the optimum by each reading.

    A reading without an interior optimum is absent from `optima`; `skipped` says why.
    """

    compute: float
    size: np.ndarray
    data: np.ndarray
    loss: np.ndarray
    optima: Mapping[str, Optimum]
    skipped: Mapping[str, str]

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the Akima curve as sizes and losses (m,), for a figure."""
        grid, values = _akima_curve(np.log(self.size), np.log(self.loss))
        return np.exp(grid), np.exp(values)

    def parabola_curve(self, parabola: Parabola) -> tuple[np.ndarray, np.ndarray]:
        """Return the parabola over the sizes it was fitted to as sizes and losses (m,), for a figure."""
        x = np.log(self.size)
        width = len(x) if parabola.points is None else min(parabola.points, len(x))
        first = int(_first(self.loss[:, None], width)[0])
        near = slice(first, first + width)
        grid = np.linspace(x[near][0], x[near][-1], _PER_INTERVAL * (width - 1))
        middle = x[near].mean()
        return np.exp(grid), np.polyval(np.polyfit(x[near] - middle, self.loss[near], 2), grid - middle)

    def to_json(self) -> dict[str, Any]:
        """Return `compute`, `num_sizes`, and per reading `size`, `data`, `loss`, `std_ln_size` or `skipped`."""
        out: dict[str, Any] = {"compute": self.compute, "num_sizes": len(self.size)}
        for name, best in self.optima.items():
            out[name] = {"size": best.size, "data": best.data, "loss": best.loss, "std_ln_size": best.std}
        return out | {name: {"skipped": reason} for name, reason in self.skipped.items()}


def read_valley(compute: float, size, data, loss, noise: np.ndarray, parabola: Parabola) -> Valley:
    """Find the bottom of losses (k,) over sizes (k,), smallest first; `noise` (S, k) is added to ln loss for the draws.

    A budget is skipped where the measured losses, or half of the noisy ones, have no bottom inside the sizes run.
    """
    if len(size) < 3:
        return Valley(compute, size, data, loss, {}, dict.fromkeys(READINGS, f"{len(size)} sizes, and a valley needs 3"))
    x, ln_loss = np.log(size), np.log(loss)
    many = np.concatenate([ln_loss[None], ln_loss + noise]).T
    floor = _FLOOR_STEPS * float(np.ptp(x)) / (len(x) - 1)
    optima, skipped = {}, {}
    for reading in READINGS:
        bottoms, depths = locate(reading, x, many, parabola)
        share = float(np.mean(np.isfinite(bottoms[1:]))) if len(noise) else 1.0
        if np.isnan(bottoms[0]):
            end = "smallest" if loss.argmin() <= len(x) // 2 else "largest"
            skipped[reading] = f"no optimum inside the sizes run; the loss is lowest towards the {end}"
        elif share < 0.5:
            skipped[reading] = f"only {share:.0%} of the noisy valleys have an optimum inside the sizes run"
        else:
            spread = float(np.nanstd(bottoms[1:])) if len(noise) else 0.0
            datas = np.exp(_along(bottoms, x, np.log(data)))
            best = Optimum(
                size=float(np.exp(bottoms[0])),
                data=float(datas[0]),
                loss=float(np.exp(depths[0])),
                std=max(spread, floor) / share,
                sizes=np.exp(bottoms[1:]),
                datas=datas[1:],
            )
            optima[reading] = best
    return Valley(compute, size, data, loss, optima, skipped)


def locate(reading: str, ln_size: np.ndarray, ln_loss: np.ndarray, parabola: Parabola) -> tuple[np.ndarray, np.ndarray]:
    """Return ln size and ln loss (S,) at the bottom of S valleys, ln_loss (k, S) over ln_size (k,); NaN where there is none."""
    if reading == "parabola":
        return _vertex(ln_size, np.exp(ln_loss), parabola)
    grid, values = _akima_curve(ln_size, ln_loss)
    index = values.argmin(axis=0)
    inside = (index > 0) & (index < len(grid) - 1)
    return np.where(inside, grid[index], np.nan), np.where(inside, values.min(axis=0), np.nan)


def _akima_curve(ln_size: np.ndarray, ln_loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    grid = np.linspace(ln_size[0], ln_size[-1], _PER_INTERVAL * (len(ln_size) - 1))
    return grid, Akima1DInterpolator(ln_size, ln_loss)(grid)


def _vertex(ln_size: np.ndarray, loss: np.ndarray, parabola: Parabola) -> tuple[np.ndarray, np.ndarray]:
    width = len(ln_size) if parabola.points is None else min(parabola.points, len(ln_size))
    first = _first(loss, width)
    bottom, depth = np.full(loss.shape[1], np.nan), np.full(loss.shape[1], np.nan)
    for start in np.unique(first):
        window, rows = slice(start, start + width), first == start
        middle = ln_size[window].mean()
        curve, slope, level = np.polyfit(ln_size[window] - middle, loss[window][:, rows], 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            vertex = -slope / (2 * curve)
            lowest = level + slope * vertex / 2
        inside = (vertex > ln_size[window][0] - middle) & (vertex < ln_size[window][-1] - middle)
        good = (curve > 0) & (lowest > 0) & (inside | parabola.outside)
        bottom[rows] = np.where(good, middle + vertex, np.nan)
        depth[rows] = np.log(np.where(good, lowest, np.nan))
    return bottom, depth


def _first(loss: np.ndarray, width: int) -> np.ndarray:
    """Return where the `width` sizes around the best of losses (k, S) begin (S,)."""
    return np.clip(loss.argmin(axis=0) - width // 2, 0, len(loss) - width)


def _along(at: np.ndarray, ln_size: np.ndarray, ln_data: np.ndarray) -> np.ndarray:
    """Interpolate ln data at ln sizes, going on with the end slopes beyond the sizes run."""
    left, right = ((ln_data[j] - ln_data[i]) / (ln_size[j] - ln_size[i]) for i, j in ((0, 1), (-2, -1)))
    beyond = np.minimum(at - ln_size[0], 0) * left + np.maximum(at - ln_size[-1], 0) * right
    return np.interp(at, ln_size, ln_data) + beyond


def valley_noise(valleys: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Estimate the standard deviation of ln loss from what cubics through neighbouring sizes leave of valleys (size, loss).

    Five neighbours leave one contrast, four leave one against a quadratic; the median of their magnitudes makes it robust to
    single bad runs and to bends. Three sizes leave nothing: with no contrast at all the answer is 0.
    """
    contrasts = []
    for size, loss in valleys:
        width = min(5, len(size))
        for start in range(len(size) - width + 1) if width >= 4 else ():
            x, y = np.log(size[start : start + width]), np.log(loss[start : start + width])
            smooth = np.vander((x - x.mean()) / np.ptp(x), width - 1)
            contrasts.append(abs(np.linalg.svd(smooth)[0][:, -1] @ y))
    return float(np.median(contrasts)) / 0.6745 if contrasts else 0.0
