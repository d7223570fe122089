"""What a fit hangs on: the same law without each run, size, data size and budget, under other objectives, and trimmed.

The objective alone moves beta of the digitised Chinchilla runs from .40 to .46, and their five highest losses move it from .37
to .45 (arXiv 2404.10102). Every row of the panel is a refit; what it changes is given in widths of the interval that the fit
itself promised, so that a shift of one says that the interval missed what the table could as well have said.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisc.errors import InputError
from unisc.scaling.bootstrap import Bootstrap
from unisc.scaling.fit import Fit
from unisc.scaling.information import Targets, loss_slopes, robust_widths, target_points
from unisc.scaling.refits import again, objectives, omissions, without
from unisc.scaling.table import column

DELTAS = (1e-4, 1e-3, 1e-2, 1e-1)
MAX_TRIMMED = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Recount:
    """Hold another counting of one axis, as parameters with embeddings: its column (n,), and its values (T,) at the targets.

    Without the latter the refit says nothing of the targets.
    """

    axis: str
    column: Sequence[float] | np.ndarray
    at_targets: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Hold a refit: what was changed and of which kind, runs left, parameters, what follows from them, and the objective.

    `predictions` (T,) are the metric at the targets and `shifts` (T,) their change over the width of the fit's interval there;
    NaN where the refit says nothing of it.
    """

    kind: str
    change: str
    num_runs: int
    parameters: Mapping[str, float]
    derived: Mapping[str, float]
    predictions: np.ndarray
    shifts: np.ndarray
    objective: float
    run: int | None = None

    @property
    def largest_shift(self) -> float:
        """The shift at the target where it is largest, with its sign; NaN if there is none."""
        known = self.shifts[np.isfinite(self.shifts)]
        return float(known[np.argmax(np.abs(known))]) if len(known) else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return every field; a prediction or shift that is not known is null, and so is `run` but for kind "run"."""
        names = ("kind", "change", "num_runs", "objective", "run")
        return {name: getattr(self, name) for name in names} | {
            "parameters": dict(self.parameters),
            "derived": {name: _number(value) for name, value in self.derived.items()},
            "predictions": [_number(value) for value in self.predictions],
            "shifts": [_number(value) for value in self.shifts],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Robustness:
    """Hold the fit as it is, its refits, the targets (X, T) and the widths (T,) of its intervals there.

    Kinds of refits: "run", "size", "data", "budget" and those of the given groups leave that out; "objective", "trim", "count".
    `skipped` says what could not be refitted, and why.
    """

    base: Variant
    variants: tuple[Variant, ...]
    labels: tuple[str, ...]
    targets: np.ndarray
    widths: np.ndarray
    skipped: Mapping[str, str]

    def of(self, kind: str) -> tuple[Variant, ...]:
        """Return the refits of a kind."""
        return tuple(variant for variant in self.variants if variant.kind == kind)

    def influential(self, count: int = 10) -> tuple[Variant, ...]:
        """Return the refits without one run that move a prediction most; a positive shift says that the run held it down."""
        return tuple(sorted(self.of("run"), key=lambda v: -np.nan_to_num(abs(v.largest_shift)))[:count])

    def ranges(self) -> dict[str, dict[str, list[float]]]:
        """Return the lowest and highest of every parameter, derived quantity and first target's prediction, by kind."""
        out: dict[str, dict[str, list[float]]] = {}
        for kind in dict.fromkeys(variant.kind for variant in self.variants):
            both = (self.base, *self.of(kind))
            rows = [{**v.parameters, **v.derived, "prediction": float(v.predictions[0])} for v in both]
            columns = {name: [row[name] for row in rows if np.isfinite(row[name])] for name in rows[0]}
            out[kind] = {name: [min(values), max(values)] for name, values in columns.items() if values}
        return out

    def to_json(self) -> dict[str, Any]:
        """Return `targets`, `widths` (null: infinite), `base`, `variants`, `influential`, `ranges` and `skipped`."""
        return {
            "targets": [dict(zip(self.labels, map(float, at), strict=True)) for at in self.targets.T],
            "widths": [_number(width) for width in self.widths],
            "base": self.base.to_json(),
            "variants": [variant.to_json() for variant in self.variants],
            "influential": [{"run": v.run, "shift": _number(v.largest_shift)} for v in self.influential()],
            "ranges": self.ranges(),
            "skipped": dict(self.skipped),
        }


def robustness(
    fit: Fit,
    *,
    targets: Targets,
    groups: Mapping[str, Sequence] | None = None,
    recounts: Mapping[str, Recount] | None = None,
    deltas: Sequence[float] = DELTAS,
    max_trimmed: int = MAX_TRIMMED,
    boot: Bootstrap | None = None,
    level: float = 0.90,
) -> Robustness:
    """Refit without each run, size, data size, budget and group; under other objectives; trimmed; counted otherwise.

    `groups` are labels (n,) by name, such as seeds or days, each left out in turn. Widths are those of `boot`, or of
    the sandwich covariance. `deltas` are Huber's, in units of each space's residuals.

    Raises:
      InputError: a target, group or recount that does not fit the table, or as many parameters as runs.
    """
    at = target_points(fit, targets)
    if boot is not None:
        low, high = boot.band(*at, level=level)
        widths = high - low
    else:
        widths = robust_widths(fit, loss_slopes(fit, at), level)
    now = fit.predict(*at)

    def variant(kind: str, change: str, refit: Fit, runs: int, at: np.ndarray | None, run: int | None = None) -> Variant:
        natural = refit.law.natural(refit.theta[None])
        predictions = np.full(len(now), np.nan) if at is None else refit.predict(*at)
        return Variant(
            kind=kind,
            change=change,
            num_runs=runs,
            parameters=refit.params,
            derived={name: float(values[0]) for name, values in refit.law.derived(natural).items()},
            predictions=predictions,
            shifts=(predictions - now) / np.maximum(widths, 1e-12 * np.abs(now)),
            objective=refit.objective,
            run=run,
        )

    num_used = int((fit.weight > 0).sum())
    omitted, skipped = omissions(fit, groups or {}, max_trimmed)
    variants = []
    for omission, theta, objective in zip(omitted, *without(fit, omitted), strict=True):
        kept = int((~omission.left_out & (fit.weight > 0)).sum())
        refit = dataclasses.replace(fit, theta=theta, objective=float(objective))
        variants.append(variant(omission.kind, omission.change, refit, kept, at, omission.run))
    for change, fields in objectives(fit.contract, deltas):
        try:
            variants.append(variant("objective", change, again(fit, **fields), num_used, at))
        except InputError as error:
            skipped[change] = str(error)
    for name, recount in (recounts or {}).items():
        variants.append(variant("count", name, *_recounted(fit, name, recount, at)))
    base = variant("none", "as it is", fit, num_used, at)
    return Robustness(base=base, variants=tuple(variants), labels=fit.labels, targets=at, widths=widths, skipped=skipped)


def _recounted(fit: Fit, name: str, recount: Recount, at: np.ndarray) -> tuple[Fit, int, np.ndarray | None]:
    if recount.axis not in fit.labels:
        raise InputError(f"recount {name!r}: no axis {recount.axis!r}; choose one of {', '.join(fit.labels)}")
    place = fit.labels.index(recount.axis)
    axes = fit.problem.axes.copy()
    axes[place] = column(recount.column, name, fit.num_runs)
    counted = {0: {"params_counted": name}, 1: {"data_counted": name}}.get(place, {})
    if recount.at_targets is not None:
        at = at.copy()
        at[place] = column(recount.at_targets, f"{name} at the targets", at.shape[1])
    return again(fit, axes, **counted), int((fit.weight > 0).sum()), None if recount.at_targets is None else at


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
