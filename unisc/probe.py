"""A linear probe: what of an item's category or brand a linear map reads off an embedding.

Multinomial logistic regression on standardised vectors, fitted to its optimum by L-BFGS (a convex problem: no start to choose),
on rows that a hash of their key sends to train; what it gets right on the others is the measure.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.special import logsumexp

from unisc.errors import InputError

RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """The penalty is `l2` / 2 times the squared weights, beside the mean log loss; biases bear none.

    Classes of fewer than `min_count` rows are left out with their rows, as are all but the `max_classes` most frequent.
    """

    l2: float = 1e-3
    test_share: float = 0.3
    min_count: int = 10
    max_classes: int = 100
    max_steps: int = 300

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1 or not self.l2 > 0:
            raise InputError(f"test_share {self.test_share}, l2 {self.l2}: give a share between 0 and 1 and a positive penalty")
        if self.min_count < 2 or self.max_classes < 2 or self.max_steps < 1:
            raise InputError("min_count, max_classes: give at least 2; max_steps: at least 1")


class Share(NamedTuple):
    """A share of the test rows with its 90 % bootstrap interval over them."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """Accuracy, and the mean over classes of the share of each that was recognised, beside what needs no embedding.

    `majority` is the accuracy of always naming train's most frequent class, whose balanced accuracy is 1 / `num_classes`.
    """

    accuracy: Share
    balanced_accuracy: Share
    majority: float
    num_classes: int
    num_train: int
    num_test: int


def linear_probe(
    embeddings: Float[np.ndarray, "n D"],
    labels: Int[np.ndarray, " n"],
    keys: Int[np.ndarray, " n"],
    config: ProbeConfig | None = None,
    *,
    seed: int = 0,
) -> ProbeResult:
    """Fit on some rows and score on the others; a label of -1 is unknown and its row left out.

    `keys`, item ids, say by their hash where a row goes, so that two encoders are probed on one split and rows of a key stay
    together. `seed` draws the bootstrap alone.

    Raises:
      InputError: vectors that are no finite numbers, or fewer than two classes with enough rows.
    """
    config = config or ProbeConfig()
    if not len(embeddings) == len(labels) == len(keys):
        raise InputError(f"{len(embeddings)} embeddings, {len(labels)} labels, {len(keys)} keys: give one each")
    if not np.isfinite(embeddings).all():
        raise InputError("embeddings: some value is not a finite number; give numbers")
    known, count = np.unique(labels[labels >= 0], return_counts=True)
    enough = count >= config.min_count
    kept = np.sort(known[enough][np.argsort(-count[enough], kind="stable")][: config.max_classes])
    if len(kept) < 2:
        raise InputError(f"labels: {len(kept)} classes of {config.min_count} rows or more; a probe tells apart at least two")
    rows = np.isin(labels, kept)
    x, y, held = (
        embeddings[rows].astype(np.float64),
        np.searchsorted(kept, labels[rows]),
        is_held(keys[rows], config.test_share),
    )
    if held.all() or not held.any():
        raise InputError(f"keys: all {len(held)} rows fall on one side of the split; give more rows or other keys")
    mean, deviation = x[~held].mean(axis=0), x[~held].std(axis=0)
    x = (x - mean) / np.where(deviation > 0, deviation, 1.0)
    weights, bias = fit(x[~held], y[~held], len(kept), config)
    right, truth = (x[held] @ weights + bias).argmax(axis=1) == y[held], y[held]
    majority = np.bincount(y[~held], minlength=len(kept)).argmax()
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, len(truth), len(truth)) for _ in range(RESAMPLES)]
    return ProbeResult(
        accuracy=_share(float(right.mean()), [float(right[d].mean()) for d in drawn]),
        balanced_accuracy=_share(_balanced(right, truth), [_balanced(right[d], truth[d]) for d in drawn]),
        majority=float((truth == majority).mean()),
        num_classes=len(kept),
        num_train=int((~held).sum()),
        num_test=len(truth),
    )


def fit(
    x: Float[np.ndarray, "n D"], y: Int[np.ndarray, " n"], num_classes: int, config: ProbeConfig
) -> tuple[Float[np.ndarray, "D C"], Float[np.ndarray, " C"]]:
    """Return weights and biases that minimise mean log loss plus penalty."""
    n, dim = x.shape
    wide = np.concatenate([x, np.ones((n, 1))], axis=1)
    penalised = np.append(np.ones(dim), 0.0)[:, None]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(dim + 1, num_classes)
        logits = wide @ weights
        log_p = logits - logsumexp(logits, axis=1, keepdims=True)
        p = np.exp(log_p)
        p[np.arange(n), y] -= 1
        value = -log_p[np.arange(n), y].mean() + 0.5 * config.l2 * np.sum(penalised * weights**2)
        return float(value), (wide.T @ p / n + config.l2 * penalised * weights).ravel()

    start = np.zeros((dim + 1) * num_classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": config.max_steps}).x
    weights = found.reshape(dim + 1, num_classes)
    return weights[:-1], weights[-1]


def is_held(keys: Int[np.ndarray, " n"], share: float) -> Bool[np.ndarray, " n"]:
    """Say which keys are held for testing: about that share, by a hash (splitmix64) of the key and nothing else."""
    with np.errstate(over="ignore"):
        x = np.asarray(keys).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)) * 2.0**-53 < share


def _balanced(right: np.ndarray, truth: np.ndarray) -> float:
    count = np.bincount(truth)
    return float((np.bincount(truth, weights=right)[count > 0] / count[count > 0]).mean())


def _share(value: float, drawn: list[float]) -> Share:
    low, high = np.quantile(drawn, [0.05, 0.95])
    return Share(value, float(low), float(high))
