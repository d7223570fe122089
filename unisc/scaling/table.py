"""What a run table must be before a law can be fitted to it: one clear line for everything else."""

from collections.abc import Sequence

import numpy as np

from unisc.errors import InputError
from unisc.scaling.contract import Contract
from unisc.scaling.laws import Law


def check_table(law: type[Law], columns: Sequence, labels: Sequence[str], contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    """Return axes (X, n) and losses (n,) as float64 from the axes' columns and the metric's.

    Raises:
      InputError: empty, not finite, or out of what the law and the space of the residuals can be asked; by column and row.
    """
    *axes, metric = columns
    metric = np.asarray(metric, float)
    if metric.ndim != 1 or not len(metric):
        raise InputError(f"the {contract.metric} column is empty; give at least one run")
    out = []
    for place, (label, axis) in enumerate(zip(labels, axes, strict=True)):
        axis = column(axis, label, len(metric))
        positive = place < law.num_positive
        if (bad := np.flatnonzero(axis <= 0 if positive else axis < 0)).size:
            least = "positive" if positive else "zero or more"
            raise InputError(f"{label} is {axis[bad[0]]:g} in row {bad[0]}; sizes must be {least}, drop or mend that run")
        out.append(axis)
    return np.array(out), _losses(law, column(metric, contract.metric, len(metric)), contract)


def column(values, name: str, length: int, *, minimum: float | None = None) -> np.ndarray:
    """Return a column of finite numbers (n,), none below `minimum`."""
    values = np.asarray(values, float)
    if values.shape != (length,):
        raise InputError(f"{name} has shape {values.shape} and the metric has ({length},); give one value a run")
    if (bad := np.flatnonzero(~np.isfinite(values))).size:
        raise InputError(f"{name} is {values[bad[0]]} in row {bad[0]}; drop or mend that run")
    if minimum is not None and (bad := np.flatnonzero(values < minimum)).size:
        raise InputError(f"{name} is {values[bad[0]]:g} in row {bad[0]}; give values of at least {minimum:g}")
    return values


def _losses(law: type[Law], metric: np.ndarray, contract: Contract) -> np.ndarray:
    name = contract.metric
    if contract.lower is not None and contract.upper is not None:
        outside = np.flatnonzero((metric < contract.lower) | (metric > contract.upper))
        if outside.size:
            row = outside[0]
            raise InputError(
                f"{name} is {metric[row]:g} in row {row}, outside its bounds {contract.lower:g} and {contract.upper:g}; "
                "mend the run or the bounds"
            )
    loss = contract.to_loss(metric)
    if contract.space == "logit" and (bad := np.flatnonzero((loss <= 0) | (loss >= contract.span))).size:
        raise InputError(
            f"{name} is {metric[bad[0]]:g} in row {bad[0]}, on its bound, which has no logit; drop it or use space 'loss'"
        )
    if contract.space == "log" and (bad := np.flatnonzero(loss <= 0)).size:
        raise InputError(
            f"{name} is {metric[bad[0]]:g} in row {bad[0]}; log space needs positive losses, drop it or use space 'loss'"
        )
    if not law.signed and (bad := np.flatnonzero(loss <= 0)).size:
        raise InputError(
            f"{name} is {metric[bad[0]]:g} in row {bad[0]}; {law.name} describes positive losses, use a law of either sign: "
            "power_limit, log_linear, log_quadratic"
        )
    return loss


def check_identifiable(law: Law, axes: np.ndarray, loss: np.ndarray, labels: Sequence[str], num_free: int) -> None:
    """Raise InputError where no table like this could say anything of the law's free parameters."""
    for label, axis in zip(labels, axes, strict=True):
        if len(np.unique(axis)) < 2:
            raise InputError(f"{label} has one distinct value, {axis[0]:g}; a law in {label} needs runs of at least two sizes")
    if len(loss) < num_free:
        raise InputError(f"{len(loss)} runs cannot fit the {num_free} parameters of {law.name}; add runs or use a smaller law")
    if np.ptp(loss) == 0:
        raise InputError(f"the metric is {loss[0]:g} in every run; there is nothing to fit")
