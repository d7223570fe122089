"""Does what looks better offline sell more? Rankers' offline metrics against their online lift over one common control."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from analysis.online import LEVEL, OFFLINE, Estimate, paired
from unisc.report.page import Page

RESAMPLES = 2_000
PANELS = ("eval/exposed/auc_roc", "eval/exposed/gauc", "eval/exposed/log_loss_calibrated", "eval/full/auc_roc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Rankers (K,) by name and family, with their offline metrics (K,) and what they sold to each user (K, U).

    `requests` and `control` (U,) are common to all rankers; `metric` is the online one.
    """

    names: Sequence[str]
    families: Sequence[str]
    offline: Mapping[str, np.ndarray]
    metric: str
    control_name: str
    requests: np.ndarray
    control: np.ndarray
    sold: np.ndarray

    def lifts(self) -> list[Estimate]:
        """Return each ranker's relative lift over the control, clustered by user."""
        return [paired(self.requests, self.control, sold)[1] for sold in self.sold]


def rank_correlation(judged: Judged, name: str, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL) -> Estimate:
    """Return Spearman's correlation of an offline metric, turned so that more is better, with the online lift.

    The interval is a percentile bootstrap over rankers and users together; rankers must be at least three. Offline metrics are
    taken as they are: the error of their test day is not in it.
    """
    offline = OFFLINE.get(name, 1) * judged.offline[name]
    count, num_users = judged.sold.shape
    if count < 3:
        return Estimate(value=float("nan"), low=-np.inf, high=np.inf)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        weight = np.bincount(rng.integers(num_users, size=num_users), minlength=num_users)
        lift = judged.sold @ weight / (judged.control @ weight)
        of = rng.integers(count, size=count)
        draws.append(_spearman(offline[of], lift[of]))
    low, high = np.nanquantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    value = _spearman(offline, judged.sold.sum(axis=1))
    return Estimate(value=value, low=float(low), high=float(high))


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Correlate ranks; NaN where all of one side are tied, as a resample of one ranker is."""
    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def study_section(work: Path) -> str | None:
    """Return what `sweeps.online` found in a study's folder `online/` as HTML, None where it has not run."""
    folder = work / "online"
    if not (folder / "agreement.json").is_file():
        return None
    found = json.loads((folder / "agreement.json").read_text(encoding="utf-8"))
    page = Page("")
    page.heading("Does what looks better offline sell more?")
    page.figure(
        folder / "agreement.svg",
        f"Online lift in clicks a request over {found['control']} against offline metrics, {len(found['rankers'])} rankers, "
        f"{found['requests_in_charge']:,} requests on common random numbers of {found['users']:,} users, by whom the "
        f"{LEVEL:.0%} intervals are clustered.",
    )
    rows = [
        [metric, name, f"{rho['value']:+.2f}", _between(rho["low"], rho["high"])]
        for metric, of in found["spearman"].items()
        for name, rho in of.items()
        if rho["value"] is not None
    ]
    page.table(["online", "offline", "Spearman", f"{LEVEL:.0%} interval over rankers and users"], rows, text=(0, 1, 3))
    return page.body()


def _between(low: float | None, high: float | None) -> str:
    return "unbounded" if low is None or high is None else f"[{low:+.2f}, {high:+.2f}]"
