"""Does what looks better offline sell more? Rankers' offline metrics against their online lift over one common control."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from analysis.online import LEVEL, OFFLINE, Estimate, paired

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
