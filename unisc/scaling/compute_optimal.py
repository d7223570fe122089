"""Approaches 1, 2 and 3 from one table: what size and how much data a budget wants, and how far the three disagree.

None of the approaches is the truth. The envelope is as coarse as the sizes run, valleys forget the runs away from their bottom,
and the fitted surface believes its form everywhere; where they disagree by more than their intervals, the table does not settle
the question.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisc.errors import InputError
from unisc.scaling.bootstrap import bootstrap
from unisc.scaling.contract import Contract
from unisc.scaling.envelope import Envelope, envelope
from unisc.scaling.fit import Fit, fit
from unisc.scaling.intervals import Interval
from unisc.scaling.isoflop import IsoFlop, isoflop
from unisc.scaling.optimal import Surface, ln_optimal_size
from unisc.scaling.optimum_law import PowerLaw, weighted_power
from unisc.scaling.runs import Runs
from unisc.scaling.valley import READINGS, Parabola, locate


@dataclass(frozen=True, slots=True)
class Target:
    """Hold one approach's optimal size and data at a compute budget; `loss` where the approach predicts it."""

    compute: float
    size: Interval
    data: Interval
    loss: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """Return `compute`, and `size`, `data`, `loss` as intervals or null."""
        loss = None if self.loss is None else self.loss.to_json()
        return {"compute": self.compute, "size": self.size.to_json(), "data": self.data.to_json(), "loss": loss}


@dataclass(frozen=True, slots=True)
class Approach:
    """Hold one approach's exponents of optimal size and data in compute and its targets; `num_points` it rests on."""

    size_exponent: Interval
    data_exponent: Interval
    targets: tuple[Target, ...]
    num_points: int
    skipped: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return `size_exponent`, `data_exponent`, `targets`, `num_points` and `skipped`."""
        return {
            "size_exponent": self.size_exponent.to_json(),
            "data_exponent": self.data_exponent.to_json(),
            "targets": [target.to_json() for target in self.targets],
            "num_points": self.num_points,
            "skipped": list(self.skipped),
        }


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Hold, at one target, the largest over the smallest optimal size and data, and which approaches gave the sizes.

    `intervals_overlap` tells whether one size lies in all of their intervals; None where fewer than two have one.
    """

    compute: float
    size_ratio: float
    data_ratio: float
    smallest: str
    largest: str
    intervals_overlap: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return every field."""
        names = ("compute", "size_ratio", "data_ratio", "smallest", "largest", "intervals_overlap")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class ValleyBias:
    """Hold the error of a reading of noiseless valleys: of the size exponent, and of size and data at targets as shares.

    +0.13 in `data` means that the reading asks for 13 % too much data there. None where it finds fewer than two bottoms.
    """

    reading: str
    size_exponent: float | None
    targets: tuple[float, ...]
    size: tuple[float, ...]
    data: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return `reading`, `size_exponent`, and per target `compute`, `size`, `data`."""
        rows = zip(self.targets, self.size, self.data, strict=True) if self.size else ()
        targets = [{"compute": compute, "size": size, "data": data} for compute, size, data in rows]
        return {"reading": self.reading, "size_exponent": self.size_exponent, "targets": targets}


@dataclass(frozen=True, slots=True)
class ComputeOptimal:
    """Hold the approaches by name, why others failed, their disagreement, the readings' own bias, and the parts they rest on.

    Names: `envelope` (approach 1), `isoflop_akima` and `isoflop_parabola` (2), `parametric` (3).
    """

    approaches: Mapping[str, Approach]
    failed: Mapping[str, str]
    disagreement: tuple[Disagreement, ...]
    bias: tuple[ValleyBias, ...]
    flops_counted: str
    notes: tuple[str, ...]
    envelope: Envelope | None
    isoflop: IsoFlop | None
    surface: Surface | None
    fitted: Fit | None

    def to_json(self) -> dict[str, Any]:
        """Return `flops_counted`, `approaches`, `failed`, `disagreement`, `bias`, `valleys`, `fit` and `notes`."""
        return {
            "flops_counted": self.flops_counted,
            "approaches": {name: approach.to_json() for name, approach in self.approaches.items()},
            "failed": dict(self.failed),
            "disagreement": [row.to_json() for row in self.disagreement],
            "bias": [row.to_json() for row in self.bias],
            "valleys": [] if self.isoflop is None else [valley.to_json() for valley in self.isoflop.valleys],
            "fit": None if self.fitted is None else self.fitted.to_json(),
            "notes": list(self.notes),
        }


def compute_optimal(
    table: Runs,
    *,
    targets=None,
    budgets=None,
    tolerance: float = 0.10,
    parabola: Parabola | None = None,
    contract: Contract | None = None,
    draws: int = 1000,
    level: float = 0.90,
    seed: int = 0,
) -> ComputeOptimal:
    """Run all three approaches on a table and compare what they ask for at target budgets.

    `targets` default to the table's largest compute and ten times that. An approach that cannot be used on the table is named
    in `failed` with its reason; training curves are resampled whole. Raises `InputError` where none can be used.
    """
    largest = float(table.compute.max())
    wanted = np.array([largest, 10 * largest]) if targets is None else np.atleast_1d(np.asarray(targets, float))
    if not (len(wanted) and np.all(np.isfinite(wanted) & (wanted > 0))):
        raise InputError("targets must be positive numbers of FLOPs; give at least one, or leave targets out")
    found: dict[str, Approach] = {}
    failed: dict[str, str] = {}
    line = valleys = surface = fitted = None
    try:
        line = envelope(table, tolerance=tolerance, draws=draws, seed=seed)
        said = (f"{line.skipped} points whose best run is the smallest or largest",) if line.skipped else ()
        found["envelope"] = _approach(line.size_law, line.data_law, wanted, level, len(line.compute), said)
    except InputError as error:
        failed["envelope"] = str(error)
    try:
        valleys = isoflop(table, budgets=budgets, tolerance=tolerance, parabola=parabola, draws=draws, seed=seed)
        for reading in READINGS:
            if reading in valleys.size_law:
                laws = valleys.size_law[reading], valleys.data_law[reading]
                count = sum(reading in valley.optima for valley in valleys.valleys)
                found[f"isoflop_{reading}"] = _approach(*laws, wanted, level, count, valleys.skipped(reading))
            else:
                failed[f"isoflop_{reading}"] = "fewer than two budgets have an optimum inside their sizes; run more sizes"
    except InputError as error:
        failed |= {f"isoflop_{reading}": str(error) for reading in READINGS}
    try:
        fitted = fit("chinchilla", table.size, table.data, table.loss, contract=contract, se=table.se)
        boot = bootstrap(fitted, clusters=table.curve, draws=draws, seed=seed) if draws else None
        surface = Surface.of(fitted, boot, flops_factor=table.flops_factor)
        points = [surface.at(float(compute), level) for compute in wanted]
        rows = tuple(Target(point.compute, point.size, point.data, point.loss) for point in points)
        exponents = surface.exponent("size", level), surface.exponent("data", level)
        found["parametric"] = Approach(*exponents, rows, fitted.num_runs)
    except InputError as error:
        failed["parametric"] = str(error)
    if not found:
        raise InputError("; ".join(dict.fromkeys(failed.values())))
    bias = () if surface is None or valleys is None else valley_bias(surface.natural, valleys, table.flops_factor, wanted)
    notes = (*table.factor_warning(), *(() if fitted is None else fitted.certificate.bounds_hit))
    rows = tuple(_disagreement(found, index) for index in range(len(wanted)))
    return ComputeOptimal(found, failed, rows, bias, table.flops_counted, notes, line, valleys, surface, fitted)


def _approach(
    size_law: PowerLaw, data_law: PowerLaw, wanted: np.ndarray, level: float, count: int, skipped: tuple[str, ...]
) -> Approach:
    rows = tuple(Target(float(c), size_law.at(float(c), level), data_law.at(float(c), level)) for c in wanted)
    return Approach(size_law.exponent_interval(level), data_law.exponent_interval(level), rows, count, skipped)


def _disagreement(found: Mapping[str, Approach], index: int) -> Disagreement:
    targets = {name: approach.targets[index] for name, approach in found.items()}
    sizes = {name: target.size.value for name, target in targets.items()}
    datas = [target.data.value for target in targets.values()]
    low, high = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    known = [target.size for target in targets.values() if target.size.method != "none"]
    overlap = None
    if len(known) >= 2:
        lows = [0.0 if interval.low is None else interval.low for interval in known]
        overlap = max(lows) <= min(np.inf if interval.high is None else interval.high for interval in known)
    compute = next(iter(targets.values())).compute
    return Disagreement(compute, sizes[high] / sizes[low], max(datas) / min(datas), low, high, overlap)


def valley_bias(natural, valleys: IsoFlop, flops_factor: float, targets) -> tuple[ValleyBias, ...]:
    """Read noiseless valleys of a law (E, A, B, alpha, beta) at a table's own sizes and budgets, and report the error.

    What is left without noise is the reading's own bias: a parabola fitted to a curve that is none errs with the width of the
    grid and with how far it sits off-centre (arXiv 2603.22339). Budgets and weights are those of the table's own reading.
    """
    natural, wanted = np.asarray(natural, float), np.atleast_1d(np.asarray(targets, float))
    floor, a, b, alpha, beta = natural
    truth = np.exp(ln_optimal_size(natural, wanted, flops_factor))
    out = []
    for reading in READINGS:
        compute, size, std = [], [], []
        for valley in valleys.valleys:
            if reading not in valley.optima:
                continue
            data = valley.compute / (flops_factor * valley.size)
            loss = floor + a * valley.size**-alpha + b * data**-beta
            bottom = locate(reading, np.log(valley.size), np.log(loss)[:, None], valleys.parabola)[0][0]
            if np.isfinite(bottom):
                compute.append(valley.compute)
                size.append(np.exp(bottom))
                std.append(valley.optima[reading].std)
        if len(compute) < 2:
            out.append(ValleyBias(reading, None, (), (), ()))
            continue
        exponent, constant = weighted_power(compute, size, std)
        ratio = np.exp(constant + exponent * np.log(wanted)) / truth
        error = float(exponent - beta / (alpha + beta))
        out.append(ValleyBias(reading, error, *(tuple(map(float, column)) for column in (wanted, ratio - 1, 1 / ratio - 1))))
    return tuple(out)
