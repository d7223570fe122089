"""The simulated online test as numbers: differences with intervals clustered by user, looks on the way, offline beside online.

The unit is the user: all requests of all of a user's lives are one cluster. Two estimates are given of treatment less control:

- *paired*: each user's two worlds, which share every random number; sum of differences over sum of requests;
- *split*: what a real test has, half of the users (by a hash of the id) seen in the treatment's world, the others in the
  control's.

Both are ratios of sums over users, with linearised (delta method) standard errors and Student's t of users less one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.9
LOOKS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value and its interval; NaN where there is nothing to estimate."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """Sign that the interval resolves: -1, 1, or 0 where it holds zero."""
        return int(self.low > 0) - int(self.high < 0)

    def plain(self) -> dict[str, float | None]:
        """Return it as JSON can hold it: None for what is not known."""
        return {name: float(x) if np.isfinite(x := getattr(self, name)) else None for name in ("value", "low", "high")}

    @classmethod
    def of(cls, plain: Mapping[str, float | None]) -> "Estimate":
        """Undo `plain`."""
        ends = {"value": np.nan, "low": -np.inf, "high": np.inf}
        return cls(**{name: float(end if plain[name] is None else plain[name]) for name, end in ends.items()})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, slots=True)
class Clusters:
    """Users (U,) in the order they enter the test, a hash's: requests (U, S) and sums (worlds, U, S, M)."""

    user_id: np.ndarray
    requests: np.ndarray
    sums: np.ndarray


def clusters(user_id: np.ndarray, requests: np.ndarray, sums: np.ndarray, *, seed: int = 0) -> Clusters:
    """Add up the lives of each user; shapes (V,), (V, S), (worlds, V, S, M)."""
    distinct, of = np.unique(user_id, return_inverse=True)
    order = np.argsort(hashed(distinct, seed), kind="stable")
    total = np.zeros((len(distinct), *requests.shape[1:]))
    np.add.at(total, of, requests)
    added = np.zeros((sums.shape[0], len(distinct), *sums.shape[2:]))
    for world in range(len(sums)):
        np.add.at(added[world], of, sums[world])
    return Clusters(user_id=distinct[order], requests=total[order], sums=added[:, order])


def hashed(user_id: np.ndarray, seed: int) -> np.ndarray:
    """Return 64 bits of each user id by splitmix64 (doi 10.1145/2660193.2660195), others for another seed."""
    with np.errstate(over="ignore"):
        x = user_id.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        return x ^ (x >> np.uint64(31))


def ratio(top: np.ndarray, bottom: np.ndarray) -> tuple[float, np.ndarray]:
    """Return sum(top) / sum(bottom) over clusters (U,), and each cluster's share in its error, linearised."""
    total = bottom.sum()
    if total == 0:
        return float("nan"), np.full(len(top), np.nan)
    value = top.sum() / total
    return float(value), (top - value * bottom) / total


def _estimate(value: float, errors: Sequence[np.ndarray], level: float) -> Estimate:
    """Return the interval of a sum of independent groups' errors; Student's t of the smaller group."""
    least = min(len(e) for e in errors)
    if least < 2:
        return Estimate(value=value, low=-np.inf, high=np.inf)
    variance = sum(float(len(e) / (len(e) - 1) * np.square(e).sum()) for e in errors)
    if variance == 0 and value != 0:  # as when nothing at all was sold in one world: no sign of how sure that is
        return Estimate(value=value, low=-np.inf, high=np.inf)
    half = float(stats.t.ppf(0.5 + level / 2, least - 1)) * variance**0.5
    return Estimate(value=value, low=value - half, high=value + half)


def paired(
    requests: np.ndarray, control: np.ndarray, treatment: np.ndarray, *, level: float = LEVEL
) -> tuple[Estimate, Estimate]:
    """Return the difference a request and the relative lift of users seen in both worlds; all (U,)."""
    value, error = ratio(treatment - control, requests)
    lift, of_lift = ratio(treatment, control)
    return _estimate(value, [error], level), _estimate(lift - 1, [of_lift], level)


def split(
    requests: np.ndarray, control: np.ndarray, treatment: np.ndarray, treated: np.ndarray, *, level: float = LEVEL
) -> tuple[Estimate, Estimate]:
    """Return the same when users are seen in one world each, the `treated` (U,) in the treatment's."""
    t, of_t = ratio(treatment[treated], requests[treated])
    c, of_c = ratio(control[~treated], requests[~treated])
    lift = _estimate(t / c - 1, [of_t / c, of_c * (t / c**2)], level) if c else Estimate(value=np.nan, low=np.nan, high=np.nan)
    return _estimate(t - c, [of_t, of_c], level), lift


def same_users(
    requests: tuple[np.ndarray, np.ndarray], sums: tuple[np.ndarray, np.ndarray], *, level: float = LEVEL
) -> Estimate:
    """Return the second less the first, a request, of the same users (U,) on different occasions: requests of their own."""
    (first, of_first), (second, of_second) = (ratio(s, n) for s, n in zip(sums, requests, strict=True))
    return _estimate(second - first, [of_second - of_first], level)


def sequence(
    requests: np.ndarray, control: np.ndarray, treatment: np.ndarray, *, looks: int = LOOKS, level: float = LEVEL
) -> list[dict[str, Any]]:
    """Look at the paired difference after each part of the users: the interval of that look alone, and an always valid one.

    The latter is the asymptotic confidence sequence of Waudby-Smith et al. (arXiv 2103.06476, theorem 2.2), tightest at the
    last look: it holds at all looks together, however many, so a test may stop at the first one whose interval leaves zero.
    """
    num_users, alpha = len(requests), 1 - level
    tuned = (-2 * np.log(alpha) + np.log(-2 * np.log(alpha) + 1)) / num_users
    found = []
    for m in sorted({max(2, round(num_users * (k + 1) / looks)) for k in range(looks)} if num_users > 1 else ()):
        if not requests[:m].sum():
            continue
        alone, _ = paired(requests[:m], control[:m], treatment[:m], level=level)
        _, error = ratio((treatment - control)[:m], requests[:m])
        # `error` sums to the estimate's error: the deviation of one user's influence is m times as large.
        deviation = m * float(np.sqrt(np.square(error).sum() / m))
        grown = m * tuned + 1
        half = deviation * np.sqrt(2 * grown / (m**2 * tuned) * np.log(np.sqrt(grown) / alpha))
        found.append(
            {
                "users": m,
                "requests": int(requests[:m].sum()),
                "value": alone.value,
                "alone": [alone.plain()["low"], alone.plain()["high"]],
                "always_valid": [alone.value - half, alone.value + half],
            }
        )
    return found


def compare(
    data: Clusters, segments: Sequence[str], metrics: Sequence[str], *, seed: int = 0, looks: int = LOOKS
) -> dict[str, Any]:
    """Compare world 1, the treatment, with world 0, the control: every metric in every segment, and looks at the first one."""
    treated = (hashed(data.user_id, seed + 1) & np.uint64(1)).astype(bool)
    out: dict[str, Any] = {"users": len(data.user_id), "treated_users": int(treated.sum()), "segments": {}, "looks": {}}
    for s, segment in enumerate(segments):
        n = data.requests[:, s]
        of_metric: dict[str, Any] = {}
        for m, metric in enumerate(metrics):
            c, t = data.sums[0, :, s, m], data.sums[1, :, s, m]
            if not n.sum():
                continue
            absolute, relative = paired(n, c, t)
            apart, apart_relative = split(n, c, t, treated)
            of_metric[metric] = {
                "control": float(c.sum() / n.sum()),
                "treatment": float(t.sum() / n.sum()),
                "paired": absolute.plain(),
                "paired_relative": relative.plain(),
                "split": apart.plain(),
                "split_relative": apart_relative.plain(),
            }
            if s == 0:
                out["looks"][metric] = sequence(n, c, t, looks=looks)
        out["segments"][segment] = {"requests": int(n.sum()), "metrics": of_metric}
    return out


OFFLINE: Mapping[str, int] = {
    "eval/exposed/auc_roc": 1,
    "eval/exposed/gauc": 1,
    "eval/exposed/log_loss_calibrated": -1,
    "eval/exposed/mrr": 1,
    "eval/full/auc_roc": 1,
    "eval/full/hr@5": 1,
    "eval/full/oracle_clicks@5": 1,
}
"""Offline metrics put beside the online test, and whether more is better."""


def offline_difference(name: str, control: Mapping[str, np.ndarray], treatment: Mapping[str, np.ndarray]) -> Estimate | None:
    """Return treatment less control of an offline metric from both evaluations' arrays, paired by request.

    None where the arrays do not hold the metric by request (areas under curves), or are of other requests.
    """
    key = name.removeprefix("eval/")
    if "request_id" not in control or not np.array_equal(control["request_id"], treatment.get("request_id", ())):
        return None
    if f"{key}_sum" in control and f"{key}_sum" in treatment:
        n = control["exposed/num_candidates"].astype(float)
        return paired(n, control[f"{key}_sum"], treatment[f"{key}_sum"])[0]
    if key in control and key in treatment and control[key].shape == treatment[key].shape:
        both = np.isfinite(control[key]) & np.isfinite(treatment[key])
        return paired(np.ones(int(both.sum())), control[key][both], treatment[key][both])[0] if both.any() else None
    return None


def agreement(
    online: Mapping[str, Any], control: Mapping[str, float], treatment: Mapping[str, float], arrays: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Put the offline metrics of both rankers beside the sign of the online difference in clicks, purchases and revenue."""
    rows = []
    of_metric = online["segments"][next(iter(online["segments"]))]["metrics"]
    signs = {name: Estimate.of(found["paired"]).sign for name, found in of_metric.items()}
    for name, better in OFFLINE.items():
        if name not in control or name not in treatment:
            continue
        difference = treatment[name] - control[name]
        interval = offline_difference(name, *arrays) if len(arrays) == 2 else None
        resolved = interval.sign if interval is not None else int(np.sign(difference))
        rows.append(
            {
                "metric": name,
                "control": control[name],
                "treatment": treatment[name],
                "difference": difference,
                "interval": None if interval is None else [interval.low, interval.high],
                "says": better * resolved,
                "online": {
                    metric: "unresolved" if not sign * resolved else "agrees" if sign == better * resolved else "disagrees"
                    for metric, sign in signs.items()
                },
            }
        )
    return rows
