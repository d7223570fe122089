"""What `unisc fit TABLE` does: read somebody's run table, fit, certify, backtest, predict; one dict, documented by its keys.

table          source, runs read and fitted, columns of the axes
options        how the table was read and what was fitted, as `FitOptions`
law            its name; `axes`, `num_runs`, `derived` beside it
contract       what was minimised, and how size, data and FLOPs were counted
parameters     natural parameters by name
objective      the minimum found
certificate    how far the optimum is to be trusted (`Certificate`)
intervals      {value, low, high, level, method, note} by parameter; null ends are unbounded
backtest       the same law without the largest runs (`Backtest`), or {"missing": reason}
predictions    one a target: {at, value, low, high, level, method, note, widened, second_basin}: the same interval wider by what
               earlier extrapolations on this table missed, null where none could be tried, and what the certificate's next
               best optimum predicts, null where there is none
plan           with `budget`: the next runs that shrink the intervals at the targets most (`Plan`)
concerns       sentences that say why the fit is not to be trusted; empty where nothing speaks against it
tournament     with `law` "all": the ranking (`Tournament`)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unisc.config import to_plain
from unisc.errors import InputError
from unisc.scaling.backtest import Backtest, Holdout, held_out, leave_largest_out
from unisc.scaling.bootstrap import Bootstrap, bootstrap
from unisc.scaling.contract import Contract
from unisc.scaling.extrapolation import Extrapolation, extrapolation
from unisc.scaling.fit import Fit, axis_labels, fit, law_named
from unisc.scaling.intervals import Interval, summarise
from unisc.scaling.links import Space
from unisc.scaling.planning import Plan, plan
from unisc.scaling.read import RunTable, read_table, refuse_duplicates, refuse_mixed_units
from unisc.scaling.tournament import Tournament, tournament
from unisc.scaling.verdict import concerns

HELD_SHARE = 0.1
"""Share of the runs that a backtest holds out at least, where nothing else was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitOptions:
    """How to read a run table and what to fit to it."""

    law: str = "chinchilla"
    """law by name, or `all` for a tournament of every law that the columns allow"""
    params_col: str | None = None
    """column of model sizes, N"""
    data_col: str | None = None
    """column of examples or tokens, D; without it D = C / (k N) where a compute column is given"""
    compute_col: str | None = None
    """column of training FLOPs, C; an axis of its own where there is no column of sizes"""
    unique_col: str | None = None
    """column of distinct examples, U, for data_constrained"""
    embedding_col: str | None = None
    """column of embedding parameters, V, for three_axes"""
    loss_col: str | None = None
    """column of losses as an axis, for task_from_loss"""
    origin_cols: tuple[str, ...] = ()
    """columns of examples by origin, the currency first, for composition"""
    metric_col: str = "loss"
    """column that is fitted"""
    se_col: str | None = None
    """column of the metric's standard errors"""
    weight_col: str | None = None
    """column of weights of the runs"""
    cluster_col: str | None = None
    """column whose equal values share an error: seeds of one cell, days, architectures"""
    where: tuple[str, ...] = ()
    """keep rows by COLUMN=VALUE; may be given several times"""
    better: Literal["lower", "higher"] = "lower"
    """whether a lower or a higher metric is better"""
    bounds: tuple[float, float] | None = None
    """least and largest value of the metric, such as 0.5 1 for AUC-ROC"""
    space: Space = "log"
    """where residuals are measured: loss, log, or logit (with --bounds)"""
    loss: Literal["huber", "squared", "absolute"] = "huber"
    """loss of a residual"""
    huber_delta: float = 1e-3
    """residual at which Huber's loss turns from square to straight"""
    drop_highest: int = 0
    """leave out this many of the worst runs"""
    fix: tuple[str, ...] = ()
    """hold a parameter at a value, like E=1.69; may be given several times"""
    flops_factor: float = 6.0
    """k in C = k N D"""
    bootstrap: int = 1000
    """resamples for the intervals; 0 for none"""
    level: float = 0.90
    """level of the intervals"""
    holdout_by: Holdout = "compute"
    """what a backtest holds out the largest of"""
    holdout_largest: int = 0
    """how many of the largest sizes, data sizes or budgets are held out; as many as hold a tenth of the runs if not given"""
    target: tuple[str, ...] = ()
    """predict here, like N=7e10,D=1.4e12; may be given several times"""
    budget: float | None = None
    """FLOPs for the next runs: which of them shrink the interval at the target most"""
    seed: int = 0
    """of the resamples"""


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fit of a table came to, in objects; `to_json` gives the documented keys."""

    prepared: Prepared
    fit: Fit
    boot: Bootstrap | None
    intervals: Mapping[str, Mapping[str, Any]]
    backtest: Backtest | None
    no_backtest: str
    predictions: tuple[tuple[Mapping[str, float], Interval], ...]
    widened: tuple[Interval | None, ...]
    plan: Plan | None
    concerns: tuple[str, ...]
    ranking: Tournament | None

    @property
    def num_clusters(self) -> int | None:
        """How many clusters the runs fall into, where a column names them."""
        return None if self.prepared.clusters is None else len(np.unique(self.prepared.clusters))

    def to_json(self) -> dict[str, Any]:
        """Return the keys that the module's docstring names."""
        table = {
            "source": self.prepared.table.source,
            "num_read": self.prepared.num_read,
            "num_fitted": self.fit.num_runs,
            "columns": dict(self.prepared.columns),
        }
        predictions = [
            {
                "at": dict(at),
                **interval.to_json(),
                "widened": widened.to_json() if widened else None,
                "second_basin": self.fit.second_prediction(*(at[label] for label in self.fit.labels)),
            }
            for (at, interval), widened in zip(self.predictions, self.widened, strict=True)
        ]
        found: dict[str, Any] = {"table": table, "options": to_plain(self.prepared.options), **self.fit.to_json()}
        found |= {"intervals": {name: dict(interval) for name, interval in self.intervals.items()}}
        found |= {"backtest": self.backtest.to_json() if self.backtest else {"missing": self.no_backtest}}
        found |= {"predictions": predictions, "concerns": list(self.concerns)}
        found |= {"plan": self.plan.to_json()} if self.plan else {}
        return found | ({"tournament": self.ranking.to_json()} if self.ranking else {})


def fit_table(path: Path, options: FitOptions) -> Outcome:
    """Fit a law, or every law, to a run table as the options say.

    Raises:
      InputError: anything about the table or the options that no fit can be made of, in one line.
    """
    prepared = prepare(path, options)
    ranking = None
    law = options.law
    if law == "all":
        ranking = tournament(prepared.axes, prepared.metric, contract=prepared.contract, origins=prepared.origins)
        law = next(entry.name for entry in ranking.entries if entry.fit is not None)
    form = law_named(law)
    labels = _labels(law, form.axes, form.any_axes, prepared)
    columns = [prepared.axes[label] for label in labels]
    fixed = dict(_assignment(text, "--fix") for text in options.fix)
    settings: dict[str, Any] = {"contract": prepared.contract, "weights": prepared.weights, "se": prepared.se}
    settings |= {"labels": labels, "fixed": fixed}
    found = fit(law, *columns, prepared.metric, **settings)
    enough = found.num_runs > found.num_free
    boot = None
    if options.bootstrap and enough:
        boot = bootstrap(found, clusters=prepared.clusters, draws=options.bootstrap, seed=options.seed)
    backtest, reason = _backtest(law, columns, prepared, settings, options)
    intervals = summarise(found, boot, options.level)
    targets = [_target(found, text) for text in options.target]
    missed = _missed(found, options.level) if targets and boot is not None else None
    predictions = tuple((at, _prediction(found, boot, at, options.level)) for at in targets)
    widened = tuple(_prediction(found, boot, at, options.level, missed) if missed else None for at in targets)
    if options.budget is not None and not targets:
        raise InputError("--budget: runs are planned for a prediction; name it with --target")
    planned = None
    if options.budget is not None:
        planned = plan(found, targets=targets, budget=options.budget, level=options.level)
    return Outcome(
        prepared=prepared,
        fit=found,
        boot=boot,
        intervals=intervals,
        backtest=backtest,
        no_backtest=reason,
        predictions=predictions,
        widened=widened,
        plan=planned,
        concerns=concerns(found, intervals, backtest),
        ranking=ranking,
    )


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


def _labels(law: str, axes: tuple[str, ...], any_axes: bool, prepared: Prepared) -> tuple[str, ...]:
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


def _backtest(
    law: str, columns: list[np.ndarray], prepared: Prepared, settings: Mapping[str, Any], options: FitOptions
) -> tuple[Backtest | None, str]:
    """Hold out the largest runs; where that leaves too few to fit, return why."""
    form = law_named(law)
    axes = np.array(columns)
    by: Holdout = options.holdout_by if len(columns) > 1 else "size"
    count = options.holdout_largest
    if count < 0:
        raise InputError(f"--holdout-largest {count}: must be 0 or more")
    if not count:
        count = 1
        while held_out(axes, by, count=count, law=form).mean() < HELD_SHARE:
            count += 1
    try:
        draws = min(options.bootstrap, 500)
        return leave_largest_out(
            law,
            *columns,
            prepared.metric,
            holdout=by,
            count=count,
            clusters=prepared.clusters,
            draws=draws,
            level=options.level,
            seed=options.seed,
            **settings,
        ), ""
    except InputError as e:
        if options.holdout_largest:
            raise
        return None, str(e)


def _target(found: Fit, text: str) -> dict[str, float]:
    at = dict(_assignment(part, "--target") for part in text.split(","))
    if wrong := sorted(set(at) ^ set(found.labels)):
        raise InputError(
            f"--target {text}: {wrong[0]} is not what the fit is of; give {', '.join(f'{x}=' for x in found.labels)}"
        )
    return at


def _missed(found: Fit, level: float) -> Extrapolation | None:
    try:
        return extrapolation(found, level=level)
    except InputError:
        return None  # too few rungs to leave any out


def _prediction(
    found: Fit, boot: Bootstrap | None, at: Mapping[str, float], level: float, missed: Extrapolation | None = None
) -> Interval:
    sizes = [at[label] for label in found.labels]
    if boot is not None:
        return boot.prediction(*sizes, level=level, backtest=missed)
    value, note = float(found.predict(*sizes)[0]), "no interval: no bootstrap was made"
    return Interval(value=value, low=None, high=None, level=level, method="none", note=note)


def _assignment(text: str, flag: str) -> tuple[str, float]:
    name, _, value = text.strip().partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise InputError(f"{flag} {text}: not understood; write it like N=7e10") from None
