"""Does size interact with data composition? Contrasts of cell means, with intervals over training seeds.

The table is a full grid of (size, composition) cells at matched data, each run with the same seeds. A seed's common effect
(its data order, its sample of test requests) cancels in a contrast between cells, and what remains is pooled over all cells:
the randomised block analysis, with (cells - 1)(seeds - 1) degrees of freedom. Resampling three seeds would understate the
error by a third; the cluster bootstrap is offered for tables with many.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import fdtrc, stdtrit

from unisc.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Hold a combination of cell means with its interval and a plain verdict.

    `verdict` is "resolved positive", "resolved negative" or "unresolved"; without a second seed there is no interval, `low`,
    `high` and `standard_error` are None and the verdict says so.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    standard_error: float | None
    level: float
    num_runs: int
    num_seeds: int
    method: str

    @property
    def verdict(self) -> str:
        if self.low is None or self.high is None:
            return "unresolved (no interval: one seed)"
        if self.low > 0:
            return "resolved positive"
        return "resolved negative" if self.high < 0 else "unresolved"

    def to_json(self) -> dict[str, Any]:
        """Return every field and the verdict."""
        names = ("value", "low", "high", "standard_error", "level", "num_runs", "num_seeds", "method", "verdict")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Cells:
    """Hold a complete grid of metric values: sizes (Z,) in dense parameters, composition names, values (Z, K, seeds)."""

    sizes: np.ndarray
    compositions: tuple[str, ...]
    seeds: tuple[int, ...]
    values: np.ndarray
    scale: float = 1.0  # Multiplies every contrast: 100 turns AUC-ROC into points

    @classmethod
    def of(cls, size, composition, seed, metric, scale: float = 1.0) -> "Cells":
        """Arrange run columns (n,) as a grid, keeping the seeds that every cell has.

        Raises `InputError` for a non-finite metric, a cell run twice, or a cell without runs.
        """
        size, metric = np.asarray(size, float), np.asarray(metric, float)
        composition, seed = np.asarray(composition).astype(str), np.asarray(seed).astype(int)
        if (bad := np.flatnonzero(~np.isfinite(metric))).size:
            raise InputError(f"the metric is {metric[bad[0]]} in row {bad[0]}; drop or mend that run")
        sizes = np.unique(size)
        names = tuple(dict.fromkeys(composition.tolist()))
        found: dict[tuple[int, int], dict[int, float]] = {}
        for row, (index, name) in enumerate(zip(np.searchsorted(sizes, size), composition, strict=True)):
            cell = found.setdefault((int(index), names.index(name)), {})
            if int(seed[row]) in cell:
                raise InputError(f"size {size[row]:g}, composition {name!r}, seed {seed[row]} occurs twice; keep one run")
            cell[int(seed[row])] = float(metric[row])
        for index in range(len(sizes)):
            for column, name in enumerate(names):
                if (index, column) not in found:
                    raise InputError(f"size {sizes[index]:g} has no run of composition {name!r}; complete the grid or drop it")
        shared = sorted(set.intersection(*(set(cell) for cell in found.values())))
        if not shared:
            raise InputError("no seed was run in every cell; run one seed throughout the grid")
        grid = [[[found[i, j][s] for s in shared] for j in range(len(names))] for i in range(len(sizes))]
        return cls(sizes, names, tuple(shared), np.array(grid), scale)

    @property
    def means(self) -> np.ndarray:
        """Cell means (Z, K)."""
        return self.values.mean(axis=2)

    @property
    def error(self) -> tuple[float, int]:
        """Return the pooled variance of one run after cell and seed effects, and its degrees of freedom."""
        cells = self.values.reshape(-1, len(self.seeds))
        residual = cells - cells.mean(axis=1, keepdims=True) - cells.mean(axis=0) + cells.mean()
        degrees = (len(cells) - 1) * (len(self.seeds) - 1)
        return (float((residual**2).sum()) / degrees if degrees else float("nan")), degrees

    def column(self, composition: str) -> int:
        """Return the index of a composition or raise `InputError`."""
        if composition not in self.compositions:
            raise InputError(f"composition {composition!r} is not in the table; it has {', '.join(self.compositions)}")
        return self.compositions.index(composition)


def contrast(
    cells: Cells,
    name: str,
    weights: np.ndarray,
    *,
    level: float = 0.90,
    method: str = "blocks",
    draws: int = 2000,
    requests=None,
) -> Contrast:
    """Estimate sum of weights (Z, K) times cell means.

    `method` "blocks" gives the t interval of the pooled block analysis, "bootstrap" the percentile interval of resampled
    seeds. `requests` (Z, K, seeds, m), per-request contributions whose mean is the metric, adds the test set's own sampling
    error to the blocks interval: all cells see the same requests, so only the contrast's spread over requests counts.
    """
    weights = np.asarray(weights, float) * cells.scale
    value = float((weights * cells.means).sum())
    seeds = len(cells.seeds)
    low = high = error = None
    label = "none (one seed)"
    if seeds > 1 and method == "bootstrap":
        by_seed = (weights[:, :, None] * cells.values).sum(axis=(0, 1))
        picked = np.random.default_rng(0).choice(by_seed, size=(draws, seeds)).mean(axis=1)
        low, high = (float(q) for q in np.quantile(picked, [(1 - level) / 2, (1 + level) / 2]))
        error, label = float(picked.std()), f"cluster bootstrap over {seeds} seeds"
    elif seeds > 1:
        variance, degrees = cells.error
        squared = variance * float((weights**2).sum()) / seeds
        label = f"t interval, seeds as blocks, {degrees} degrees of freedom"
        if requests is not None:
            per_request = (weights[:, :, None] * np.asarray(requests, float).mean(axis=2)).sum(axis=(0, 1))
            squared += float(per_request.var(ddof=1)) / len(per_request)
            label += ", test requests included"
        error = float(np.sqrt(squared))
        half = float(stdtrit(degrees, 0.5 + level / 2)) * error
        low, high = value - half, value + half
    return Contrast(
        name=name,
        value=value,
        low=low,
        high=high,
        standard_error=error,
        level=level,
        num_runs=cells.values.size,
        num_seeds=seeds,
        method=label,
    )


def _require_sizes(cells: Cells) -> None:
    if len(cells.sizes) < 2:
        raise InputError(f"an interaction needs at least two model sizes and the table has {len(cells.sizes)}; add runs")


def slope_weights(cells: Cells) -> np.ndarray:
    """Return the least-squares slope per decade of size as weights (Z,) on the sizes."""
    _require_sizes(cells)
    centred = np.log10(cells.sizes) - np.log10(cells.sizes).mean()
    return centred / (centred**2).sum()


def slope_difference(cells: Cells, composition: str, base: str = "exposed", **options) -> Contrast:
    """Return the interaction: slope per decade of dense parameters under a composition minus that under `base`."""
    weights = np.zeros(cells.means.shape)
    weights[:, cells.column(composition)] += slope_weights(cells)
    weights[:, cells.column(base)] -= slope_weights(cells)
    return contrast(cells, f"slope({composition}) - slope({base}) per decade", weights, **options)


@dataclass(frozen=True, slots=True)
class Synergy:
    """Hold UniScale's question as five contrasts between corner cells.

    `model`: base data, smallest to largest model. `data`: smallest model, base data to the composition.
    `both`: the two at once. `synergy`: both - model - data.
    `joint_over_model`: both - model, what the composition adds at the largest size.
    """

    model: Contrast
    data: Contrast
    both: Contrast
    synergy: Contrast
    joint_over_model: Contrast
    small: float
    large: float
    composition: str
    base: str

    def to_json(self) -> dict[str, Any]:
        """Return the contrasts by name and the corners they compare."""
        names = ("model", "data", "both", "synergy", "joint_over_model")
        corners = {"small": self.small, "large": self.large, "composition": self.composition, "base": self.base}
        return {name: getattr(self, name).to_json() for name in names} | corners


def synergy(cells: Cells, composition: str, base: str = "exposed", **options) -> Synergy:
    """Compare scaling the model, the data and both, between the smallest and the largest size."""
    _require_sizes(cells)
    old, new = cells.column(base), cells.column(composition)

    def corner(*terms: tuple[int, int, float]) -> np.ndarray:
        weights = np.zeros(cells.means.shape)
        for row, column, sign in terms:
            weights[row, column] += sign
        return weights

    return Synergy(
        model=contrast(cells, "model alone", corner((-1, old, 1), (0, old, -1)), **options),
        data=contrast(cells, "data alone", corner((0, new, 1), (0, old, -1)), **options),
        both=contrast(cells, "both", corner((-1, new, 1), (0, old, -1)), **options),
        synergy=contrast(cells, "synergy", corner((-1, new, 1), (-1, old, -1), (0, new, -1), (0, old, 1)), **options),
        joint_over_model=contrast(cells, "both over model alone", corner((-1, new, 1), (-1, old, -1)), **options),
        small=float(cells.sizes[0]),
        large=float(cells.sizes[-1]),
        composition=composition,
        base=base,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class AdditiveTest:
    """Hold the F test of the additive model (size effect plus composition effect) against slopes per composition.

    `p_value` is None with one seed. `rmse_additive` and `rmse_interaction` are in metric units times the cells' scale, for
    predicting the largest size from the smaller ones: an additive model that predicts better is sufficient.
    """

    f_statistic: float | None
    degrees: tuple[int, int]
    p_value: float | None
    rmse_additive: float | None
    rmse_interaction: float | None

    @property
    def verdict(self) -> str:
        if self.p_value is None:
            return "not tested (one seed)"
        return "additive model rejected" if self.p_value < 0.05 else "additive model not rejected"

    def to_json(self) -> dict[str, Any]:
        """Return every field and the verdict."""
        names = ("f_statistic", "p_value", "rmse_additive", "rmse_interaction", "verdict")
        return {name: getattr(self, name) for name in names} | {"degrees": list(self.degrees)}


def additive_test(cells: Cells) -> AdditiveTest:
    """Test whether composition slopes differ: sum of squares of the slope differences over the pooled error."""
    variance, degrees = cells.error
    slopes = slope_weights(cells) @ cells.means
    count = len(cells.compositions)
    between = float(((slopes - slopes.mean()) ** 2).sum() / (slope_weights(cells) ** 2).sum()) * len(cells.seeds)
    statistic = p_value = None
    if degrees and variance > 0 and count > 1:
        statistic = between / (count - 1) / variance
        p_value = float(fdtrc(count - 1, degrees, statistic))
    errors = _predict_largest(cells) if len(cells.sizes) > 3 else (None, None)
    return AdditiveTest(
        f_statistic=statistic,
        degrees=(count - 1, degrees),
        p_value=p_value,
        rmse_additive=errors[0],
        rmse_interaction=errors[1],
    )


def _predict_largest(cells: Cells) -> tuple[float, float]:
    """Predict composition gaps at the largest size from the smaller sizes: constant gaps, or gaps linear in log size."""
    gaps = cells.means - cells.means.mean(axis=1, keepdims=True)
    logs = np.log10(cells.sizes)
    slope, level = np.polyfit(logs[:-1], gaps[:-1], 1)
    additive = gaps[:-1].mean(axis=0) - gaps[-1]
    interacting = level + slope * logs[-1] - gaps[-1]
    rms = [float(np.sqrt((error**2).mean()) * cells.scale) for error in (additive, interacting)]
    return rms[0], rms[1]
