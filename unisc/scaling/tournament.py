"""All laws that a table allows, ranked by what they predict of runs larger than those they saw; ties stay ties."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls
from scipy.special import stdtrit

from unisc.errors import InputError
from unisc.scaling.contract import Contract
from unisc.scaling.fit import Fit, fit
from unisc.scaling.laws import LAWS

BASELINES = ("carry_forward", "mean")
MAX_CUTS = 5
LEVEL = 0.90


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One law, or a baseline without a fit: its mean absolute error on the link, signed bias, and whether the best beats it.

    `behind`, with its 90 % interval, is how much larger its error is than the winner's on the same held-out runs; `tied` says
    that the interval reaches zero. `weight` is its part in the stacked prediction.
    """

    name: str
    fit: Fit | None
    error: float
    bias: float
    behind: float
    low: float
    high: float
    tied: bool
    weight: float

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON values, its parameters by name."""
        names = ("name", "error", "bias", "behind", "low", "high", "tied", "weight")
        return {name: getattr(self, name) for name in names} | {"parameters": self.fit.params if self.fit else None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tournament:
    """Hold the entries, best first, how many runs were predicted after how many cuts, and the laws left out with reasons."""

    entries: tuple[Entry, ...]
    num_predicted: int
    num_cuts: int
    left_out: Mapping[str, str]
    axes: Mapping[str, np.ndarray]

    @property
    def winners(self) -> tuple[str, ...]:
        """The best and all that are tied with it."""
        return tuple(entry.name for entry in self.entries if entry.tied)

    def predict(self, **sizes) -> np.ndarray:
        """Return the stacked prediction (n,) of the metric at sizes given by axis."""
        fits = [(entry.fit, entry.weight) for entry in self.entries if entry.fit is not None]
        total = sum(weight for _, weight in fits)
        if total == 0:  # Baselines predict best: fall back on the best law.
            return fits[0][0].predict(*(sizes[label] for label in fits[0][0].labels))
        parts = [weight / total * f.predict(*(sizes[label] for label in f.labels)) for f, weight in fits if weight]
        return np.sum(parts, axis=0)

    def to_json(self) -> dict[str, Any]:
        """Return the entries, best first, and what they were judged on."""
        return {
            "entries": [entry.to_json() for entry in self.entries],
            "winners": list(self.winners),
            "num_predicted": self.num_predicted,
            "num_cuts": self.num_cuts,
            "left_out": dict(self.left_out),
        }


def tournament(
    axes: Mapping[str, Sequence[float] | np.ndarray],
    metric: Sequence[float] | np.ndarray,
    *,
    contract: Contract | None = None,
    laws: Sequence[str] | None = None,
    origins: Sequence[str] = (),
    max_cuts: int = MAX_CUTS,
) -> Tournament:
    """Fit every law that the axes allow below growing cuts in compute, predict the next budgets, and rank the laws.

    `axes` gives columns (n,) by name: N, D, U, V, loss, and examples by origin, named in `origins`. A law that the rows below
    a cut cannot fit is left out, with the reason. Errors are on the contract's link, over all predicted runs; the comparison
    with the winner is paired, budgets being its units.

    Raises:
      InputError: fewer than three budgets, or no law that fits.
    """
    contract = contract or Contract()
    table = {name: np.asarray(values, float) for name, values in axes.items()}
    if origins and "D" not in table:
        table["D"] = np.sum([table[name] for name in origins], axis=0)
    values = np.asarray(metric, float)
    entrants = _entrants(table, contract, origins, laws)
    compute = np.log(table[next(iter(table))]) + (np.log(table["D"]) if "D" in table and "N" in table else 0.0)
    levels = np.unique(np.round(compute, 9))
    most = max(len(next(iter(entrants.values()))[0]), 1)
    cuts = _cuts(compute, levels, max_cuts)
    if not cuts:
        raise InputError(f"{len(levels)} budgets leave nothing to predict; a tournament needs at least {most + 2}")
    link = contract.link
    target = link(contract.to_loss(values))
    errors: dict[str, list[np.ndarray]] = {name: [] for name in (*entrants, *BASELINES)}
    predicted: dict[str, list[np.ndarray]] = {name: [] for name in errors}
    left_out: dict[str, str] = {}
    rungs, truths = [], []
    for train, test in cuts:
        rungs.append(np.round(compute[test], 9))
        truths.append(target[test])
        for name, (labels, law) in entrants.items():
            if name in left_out:
                continue
            try:
                found = fit(law, *(table[label][train] for label in labels), values[train], contract=contract, labels=labels)
            except InputError as e:
                left_out[name] = str(e)
                continue
            guess = link(contract.to_loss(found.predict(*(table[label][test] for label in labels))))
            predicted[name].append(np.nan_to_num(guess, posinf=1e3, neginf=-1e3))
            errors[name].append(predicted[name][-1] - target[test])
        last = train & (compute >= compute[train].max() - 1e-9)
        for name, value in (("carry_forward", target[last].mean()), ("mean", target[train].mean())):
            predicted[name].append(np.full(int(test.sum()), value))
            errors[name].append(predicted[name][-1] - target[test])
    names = [name for name in errors if name not in left_out]
    if not any(name in entrants for name in names):
        raise InputError(f"no law fits this table: {next(iter(left_out.values()))}")
    flat = {name: np.concatenate(errors[name]) for name in names}
    ordered = sorted(names, key=lambda name: float(np.abs(flat[name]).mean()))
    groups = np.unique(np.concatenate(rungs), return_inverse=True)[1]
    weights = _stack({name: np.concatenate(predicted[name]) for name in names if name in entrants}, np.concatenate(truths))
    entries = []
    for name in ordered:
        behind, low, high = _paired(np.abs(flat[name]) - np.abs(flat[ordered[0]]), groups)
        whole = None
        if name in entrants:
            labels, law = entrants[name]
            whole = fit(law, *(table[label] for label in labels), values, contract=contract, labels=labels)
        entries.append(
            Entry(
                name=name,
                fit=whole,
                error=float(np.abs(flat[name]).mean()),
                bias=float(flat[name].mean()),
                behind=behind,
                low=low,
                high=high,
                tied=name == ordered[0] or low <= 0,
                weight=weights.get(name, 0.0),
            )
        )
    return Tournament(entries=tuple(entries), num_predicted=len(groups), num_cuts=len(cuts), left_out=left_out, axes=table)


def _entrants(
    table: Mapping[str, np.ndarray], contract: Contract, origins: Sequence[str], laws: Sequence[str] | None
) -> dict[str, tuple[tuple[str, ...], str]]:
    """Return the labels each law takes and its name, by entry."""
    given = [label for label in ("N", "V", "D", "U", "loss") if label in table]
    found: dict[str, tuple[tuple[str, ...], str]] = {}
    for name, law in LAWS.items():
        if law.any_axes and name.startswith("composition"):
            labels = ("N", *origins) if origins else ()
        elif law.any_axes:
            labels = tuple(label for label in given if label != "loss")
        else:
            labels = law.axes
            if len(labels) == 1 and len(given) == 1 and labels != ("loss",):
                labels = (given[0],)
        usable = labels and set(labels) <= set(table)
        # A law of fewer axes than vary would be judged on what it was never told.
        whole = not usable or len(labels) > 1 or len(given) == 1
        bounded = np.isfinite(contract.span) or name not in ("logit_linear", "task_from_loss")
        signed_ok = law.signed or bool(contract.space != "loss" or contract.better == "lower" or np.isfinite(contract.span))
        if usable and whole and bounded and signed_ok and (laws is None or name in laws):
            found[name] = (labels, name)
    if not found:
        raise InputError(f"no law takes the axes {', '.join(table)}; give N, or N and D")
    return found


def _cuts(compute: np.ndarray, levels: np.ndarray, most: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return up to `most` pairs of train and test masks: all runs below a cut, and the runs from it to the next."""
    # The lower half of the budgets is always trained on; a run with its own budget each makes steps of several.
    steps = np.unique(np.linspace(np.ceil(len(levels) / 2), len(levels), min(most, len(levels) // 2) + 1).round().astype(int))
    cuts = []
    for first, last in itertools.pairwise(steps):
        train = compute < levels[first] - 1e-8
        test = (compute >= levels[first] - 1e-8) & (compute <= levels[last - 1] + 1e-8)
        if train.sum() >= 3 and test.any():
            cuts.append((train, test))
    return cuts


def _paired(differences: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """Return the mean difference and its t interval, groups of runs being the units."""
    mean = float(differences.mean())
    count = int(groups.max()) + 1
    if count < 2:
        return mean, -np.inf, np.inf
    sums = np.bincount(groups, differences - mean, minlength=count)
    error = float(np.sqrt(count / (count - 1) * (sums**2).sum())) / len(differences)
    half = float(stdtrit(count - 1, 0.5 + LEVEL / 2)) * error
    return mean, mean - half, mean + half


def _stack(predicted: Mapping[str, np.ndarray], truth: np.ndarray) -> dict[str, float]:
    """Return the convex weights of the laws whose mixture predicts the held-out runs best."""
    columns = np.stack(list(predicted.values()), axis=1)
    # A heavy row of ones holds the weights to a sum of one.
    heavy = 1e3 * max(float(np.abs(truth).max()), 1.0)
    weights, _ = nnls(np.vstack([columns, heavy * np.ones(columns.shape[1])]), np.append(truth, heavy))
    return dict(zip(predicted, map(float, weights / max(weights.sum(), 1e-300)), strict=True))
