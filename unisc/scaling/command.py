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
from typing import Any

import numpy as np

from unisc.config import to_plain
from unisc.errors import InputError
from unisc.fit_options import FitOptions, Holdout
from unisc.scaling.backtest import Backtest, held_out, leave_largest_out
from unisc.scaling.bootstrap import Bootstrap, bootstrap
from unisc.scaling.extrapolation import Extrapolation, extrapolation
from unisc.scaling.fit import Fit, fit, law_named
from unisc.scaling.intervals import Interval, summarise
from unisc.scaling.planning import Plan, plan
from unisc.scaling.prepare import Prepared, labels_of, prepare
from unisc.scaling.tournament import Tournament, tournament
from unisc.scaling.verdict import concerns

__all__ = ["FitOptions", "Outcome", "fit_table"]

HELD_SHARE = 0.1
"""Share of the runs that a backtest holds out at least, where nothing else was asked for."""


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
    labels = labels_of(law, form.axes, form.any_axes, prepared)
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
