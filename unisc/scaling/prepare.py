"""From a run table and its options to the columns that a fit takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unisc.errors import InputError
from unisc.fit_options import FitOptions
from unisc.scaling.contract import Contract
from unisc.scaling.fit import axis_labels, law_named
from unisc.scaling.read import RunTable, read_table, refuse_duplicates, refuse_mixed_units


@dataclass(frozen=True, slots=True)
class Prepared:
    """The columns of a table that a fit takes: axes (n,) by label, metric (n,), and what goes with the runs."""

    table: RunTable
    columns: Mapping[str, str]
    axes: Mapping[str, np.ndarray]
    origins: tuple[str, ...]
    metric: np.ndarray
    weights: np.ndarray | None
    se: np.ndarray | None
    clusters: np.ndarray | None
    contract: Contract
    num_read: int
    options: FitOptions


def prepare(path: Path, options: FitOptions) -> Prepared:
    """Read a table's columns as the options name them."""
    table = read_table(path)
    refuse_duplicates(table)
    num_read = table.num_runs
    for text in options.where:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--where {text}: not understood; write it like config=tuned")
        table = table.where(name, value)
    if options.drop_highest < 0:
        raise InputError(f"--drop-highest {options.drop_highest}: must be 0 or more")
    if options.drop_highest:
        table = _trimmed(table, options)
    axes: dict[str, np.ndarray] = {}
    columns: dict[str, str] = {}
    for label, name in (
        ("N", options.params_col),
        ("V", options.embedding_col),
        ("D", options.data_col),
        ("U", options.unique_col),
        ("loss", options.loss_col),
    ):
        if name is not None:
            axes[label], columns[label] = table.numbers(name), name
    if options.compute_col is not None and "D" not in axes:
        compute = table.numbers(options.compute_col)
        if "N" in axes:
            axes["D"] = compute / (options.flops_factor * axes["N"])
            columns["D"] = f"{options.compute_col} / ({options.flops_factor:g} {options.params_col})"
        else:
            axes["C"], columns["C"] = compute, options.compute_col
    for name in options.origin_cols:
        axes[name], columns[name] = table.numbers(name), name
    if not axes:
        raise InputError("no axis; name a column of sizes (--params-col), of data (--data-col) or of FLOPs (--compute-col)")
    for label, values in axes.items():
        refuse_mixed_units(table, columns[label], values)
    clusters = None
    if options.cluster_col is not None:
        clusters = np.unique(table.words(options.cluster_col).astype(str), return_inverse=True)[1]
    lower, upper = options.bounds or (None, None)
    contract = Contract(
        space=options.space,
        loss=options.loss,
        huber_delta=options.huber_delta,
        trimming=f"{options.drop_highest} worst runs" if options.drop_highest else "none",
        params_counted=columns.get("N", ""),
        data_counted=columns.get("D", ", ".join(options.origin_cols)),
        flops_counted=options.compute_col or "",
        metric=options.metric_col,
        better=options.better,
        lower=lower,
        upper=upper,
    )
    return Prepared(
        table=table,
        columns=columns,
        axes=axes,
        origins=options.origin_cols,
        metric=table.numbers(options.metric_col),
        weights=table.numbers(options.weight_col) if options.weight_col else None,
        se=table.numbers(options.se_col) if options.se_col else None,
        clusters=clusters,
        contract=contract,
        num_read=num_read,
        options=options,
    )


def _trimmed(table: RunTable, options: FitOptions) -> RunTable:
    metric = table.numbers(options.metric_col)
    if options.drop_highest >= len(metric):
        raise InputError(f"--drop-highest {options.drop_highest}: the table has {len(metric)} runs; drop fewer")
    worst = np.argsort(metric if options.better == "lower" else -metric, kind="stable")[::-1][: options.drop_highest]
    keep = np.ones(len(metric), bool)
    keep[worst] = False
    return table.take(keep)


def labels_of(law: str, axes: tuple[str, ...], any_axes: bool, prepared: Prepared) -> tuple[str, ...]:
    """Return which of the table's axes the law takes."""
    given = tuple(label for label in prepared.axes if label not in prepared.origins)
    if law.startswith("composition"):
        if len(prepared.origins) < 2:
            raise InputError(f"law {law!r} needs examples by origin; name two columns or more with --origin-cols")
        return ("N", *prepared.origins)
    if any_axes:
        return given
    if len(axes) == 1 and axes != ("loss",):
        if len(given) != 1:
            raise InputError(f"law {law!r} takes one axis, and the table gives {', '.join(given)}; name one column")
        return given
    if missing := [axis for axis in axes if axis not in prepared.axes]:
        flags = {"N": "--params-col", "D": "--data-col", "U": "--unique-col", "V": "--embedding-col", "loss": "--loss-col"}
        raise InputError(f"law {law!r} needs {missing[0]}; name its column with {flags[missing[0]]}")
    return axis_labels(law_named(law), len(axes), axes)
