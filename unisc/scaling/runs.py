"""A table of runs by compute: what IsoFLOP analyses read, with a word on how the FLOPs were counted."""

from dataclasses import dataclass

import numpy as np

from unisc.errors import InputError


@dataclass(frozen=True, slots=True)
class Runs:
    """Hold runs, each column (n,): compute, model size, data size, loss; compute = flops_factor x size x data.

    `se` are standard errors of the losses in loss units. `curve` labels the training run that a point was read off: several
    points with one label are one training curve. Where compute and data were both given, `flops_factor` is the median of
    compute / (size x data) and `factor_spread` the largest over the smallest: 1 where the relation holds exactly.
    """

    compute: np.ndarray
    size: np.ndarray
    data: np.ndarray
    loss: np.ndarray
    se: np.ndarray | None
    curve: np.ndarray | None
    flops_factor: float
    factor_spread: float
    flops_counted: str

    @classmethod
    def of(
        cls, *, size, loss, data=None, compute=None, se=None, curve=None, flops_factor: float = 6.0, flops_counted: str = ""
    ):
        """Build a table from columns; data or compute may be left out and follows from compute = flops_factor x size x data.

        The default factor 6 is a dense transformer's forward and backward pass per parameter and token. Raises `InputError` for
        a column that is missing, has another length, or holds a value that is not positive and finite.
        """
        size = np.atleast_1d(np.asarray(size, float))
        size = _positive(size, "size", len(size))
        loss = _positive(loss, "loss", len(size))
        if data is None and compute is None:
            raise InputError("the table has neither data nor compute; give one of them, the other follows from flops_factor")
        if not (np.isfinite(flops_factor) and flops_factor > 0):
            raise InputError(f"flops_factor is {flops_factor}; give a positive number, 6 for a dense transformer's tokens")
        counted = flops_counted or f"{flops_factor:g} x size x data"
        spread = 1.0
        if data is None:
            compute = _positive(compute, "compute", len(size))
            data = compute / (flops_factor * size)
        elif compute is None:
            data = _positive(data, "data", len(size))
            compute = flops_factor * size * data
        else:
            compute, data = _positive(compute, "compute", len(size)), _positive(data, "data", len(size))
            factors = compute / (size * data)
            flops_factor, spread = float(np.exp(np.median(np.log(factors)))), float(factors.max() / factors.min())
            counted = flops_counted or f"given column, {flops_factor:.4g} x size x data in the median"
        if se is not None:
            se = _positive(se, "se", len(size))
        if curve is not None:
            curve = np.asarray(curve).astype(str)
            if curve.shape != size.shape:
                raise InputError(f"curve has shape {curve.shape} and size has {size.shape}; give one label a run")
            if len(np.unique(curve)) == len(curve):
                curve = None  # Every point is a run of its own: there are no curves.
        return cls(compute, size, data, loss, se, curve, flops_factor, spread, counted)

    @property
    def num_runs(self) -> int:
        return len(self.loss)

    def factor_warning(self) -> tuple[str, ...]:
        """Return one line where compute is no constant times size x data, else nothing."""
        if self.factor_spread < 1.05:
            return ()
        said = f"compute / (size x data) varies {self.factor_spread:.2f}-fold over the table"
        return (f"{said}; approach 3 uses its median, {self.flops_factor:.4g}",)


def _positive(values, name: str, length: int) -> np.ndarray:
    values = np.asarray(values, float)
    if not length:
        raise InputError("the table is empty; give at least one run")
    if values.shape != (length,):
        raise InputError(f"{name} has shape {values.shape} and size has ({length},); give one value a run")
    if (bad := np.flatnonzero(~(np.isfinite(values) & (values > 0)))).size:
        raise InputError(f"{name} is {values[bad[0]]:g} in row {bad[0]}; it must be positive and finite, drop or mend that run")
    return values


def find_budgets(compute: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the compute budgets that runs cluster at: the median of each group no wider than the tolerance to either side."""
    ordered = np.sort(np.log(compute))
    width = 2 * np.log1p(tolerance)
    groups: list[list[float]] = []
    for value in ordered:
        if groups and value - groups[-1][0] <= width:
            groups[-1].append(value)
        else:
            groups.append([value])
    return np.exp([np.median(group) for group in groups])
