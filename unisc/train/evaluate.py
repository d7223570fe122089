"""Evaluation of a trained model on the test split: one pass over shown lists and full lists, one compiled program.

A fifth of the test requests, chosen by a hash of their id, fits an intercept and a slope on the logits (Platt); every metric
is of the other requests. Metrics of lists come per request too, so that intervals can be bootstrapped over requests later.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Float, Int64

from unisc import metrics
from unisc.data.columns import Columns
from unisc.data.hashing import HashConfig, RowMap
from unisc.data.pack import BatchShape
from unisc.data.pipeline import PackedViews, full_lists, interleave, iterate, shown_lists
from unisc.distributed import is_first
from unisc.errors import InputError
from unisc.train.finite import not_finite
from unisc.train.oracle import Oracle
from unisc.train.state import ROW_MULTIPLE, TrainState
from unisc.train.step import compiled, make_eval_step

TOP = 5
CALIBRATION_SHARE = 5
CLICK = 0
SPLIT = "test day"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """How to evaluate: candidates a batch, and on how many (first) test requests the full lists are scored, all if None.

    `list_len` is the length at which lists are cut for models that score lists, 0 for others.
    """

    batch_candidates: int = 1024
    num_full_requests: int | None = None
    list_len: int = 0

    def __post_init__(self) -> None:
        if self.batch_candidates < 1:
            raise InputError(f"batch_candidates {self.batch_candidates}: give at least 1")
        if self.num_full_requests is not None and self.num_full_requests < 0:
            raise InputError(f"num_full_requests {self.num_full_requests}: give at least 0, or nothing for all")
        if not 0 <= self.list_len <= self.batch_candidates:
            raise InputError(f"list_len {self.list_len}: give at least 0 and at most batch_candidates {self.batch_candidates}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Click logits of the test split's candidate rows; NaN where a row was not scored in that way."""

    exposed: Float[np.ndarray, "N"]
    full: Float[np.ndarray, "N"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Metrics by key, and arrays by name: `request_id` and for each of those requests the sums behind the metrics."""

    metrics: dict[str, float]
    arrays: dict[str, np.ndarray]

    def save(self, path: Path) -> None:
        """Write the arrays as an .npz file; of several processes the first does."""
        if not is_first():
            return
        np.savez_compressed(path, allow_pickle=False, **self.arrays)


def eval_shape(columns: Columns, config: EvalConfig) -> BatchShape:
    """Return the one batch shape in which shown and full lists are scored."""
    return BatchShape.of(
        columns.spec,
        candidates=config.batch_candidates,
        mean_list_len=_mean_list_len(columns, config),
        list_len=config.list_len,
    )


def _mean_list_len(columns: Columns, config: EvalConfig) -> float:
    views = interleave(shown_lists(columns), full_lists(columns, config.num_full_requests))
    lengths = views.length[views.length > 0]
    return float(lengths.mean()) if len(lengths) else 1.0


def score(
    model: nnx.Module, state: TrainState, columns: Columns, config: EvalConfig, *, row_map: RowMap | None = None
) -> Scores:
    """Score shown lists at their true positions, and full lists with no position given; `row_map` is that of the training.

    Of several processes, which all hold the whole model, each scores its share of the batches; all get all scores.
    """
    row_map = row_map or RowMap(columns.spec, HashConfig())
    if not 0 <= state.table.shape[0] - row_map.spec.num_rows < ROW_MULTIPLE:
        rows = f"{state.table.shape[0]} for features of {row_map.spec.num_rows}"
        raise InputError(f"table of {rows} rows: give the row_map that it was trained with")
    model.eval()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    dense, others = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    views = interleave(shown_lists(columns), full_lists(columns, config.num_full_requests))
    source = PackedViews(columns, views, eval_shape(columns, config))
    out = {hidden: np.full(len(columns.item_id), np.nan, np.float32) for hidden in (False, True)}
    if not len(source):
        raise InputError(f"{SPLIT} without candidates: give more days or requests")
    step = compiled(make_eval_step(graphdef), dense, others, state.table, row_map(source[0]))

    def store(index: int, logits: jax.Array) -> None:
        rows, hidden = source.rows(index), source.hidden(index)
        values = np.asarray(logits)[: len(rows), CLICK]
        if not np.isfinite(values).all():  # they would pass for rows that were not scored
            cause = not_finite(columns.spec, source[index])
            wrong = "scores: not numbers" if cause is None else f"{cause}: not a number in batch {index}"
            remedy = "lower the learning rates" if cause is None else f"correct the samples, or remove {columns.cache}"
            raise InputError(f"{wrong} of the {SPLIT}; {remedy}")
        out[False][rows[~hidden]], out[True][rows[hidden]] = values[~hidden], values[hidden]

    pending, share = None, (jax.process_index(), jax.process_count())
    batches = iterate(source, row_map=row_map, share=share) if share[0] < len(source) else ()
    for index, batch in zip(range(share[0], len(source), share[1]), batches, strict=True):
        logits = step(dense, others, state.table, batch)
        if pending is not None:  # read one batch late: packing and computing overlap
            store(*pending)
        pending = (index, logits)
    if pending is not None:
        store(*pending)
    if share[1] > 1:  # each row is scored by one process: the others have not a number for it
        gathered = multihost_utils.process_allgather({"exposed": out[False], "full": out[True]})
        return Scores(**{name: np.fmax.reduce(values, axis=0) for name, values in gathered.items()})
    return Scores(exposed=out[False], full=out[True])


def evaluate(
    model: nnx.Module,
    state: TrainState,
    columns: Columns,
    config: EvalConfig,
    *,
    oracle: Oracle | None = None,
    row_map: RowMap | None = None,
) -> Evaluation:
    """Score the test split and compute every metric of the contract.

    Raises:
      InputError: the test day has no exposed candidate, no click or nothing but clicks.
    """
    return evaluate_scores(score(model, state, columns, config, row_map=row_map), columns, oracle=oracle)


def evaluate_scores(scores: Scores, columns: Columns, *, oracle: Oracle | None = None) -> Evaluation:
    """Compute the metrics of given scores: a model's, or a floor's such as the shown order (as decreasing logits).

    Raises:
      InputError: as `evaluate`.
    """
    held_out = ~is_calibration(columns.request_id)
    fit = _Lists(columns, ~np.isnan(scores.exposed), ~held_out)
    intercept, slope = fit_platt(columns.labels[fit.rows, CLICK], scores.exposed[fit.rows])
    shown = _Lists(columns, ~np.isnan(scores.exposed), held_out)
    if not len(shown.rows):
        raise InputError(f"{SPLIT} without exposed candidates: give more days or requests")

    labels, logits = columns.labels[shown.rows, CLICK].astype(np.float64), scores.exposed[shown.rows].astype(np.float64)
    calibrated = intercept + slope * logits
    out: dict[str, float] = {
        "eval/exposed/log_loss": metrics.log_loss(labels, logits),
        "eval/exposed/log_loss_calibrated": metrics.log_loss(labels, calibrated),
        "eval/exposed/auc_roc": metrics.auc_roc(labels, logits, split=SPLIT),
        "eval/exposed/gauc": metrics.gauc(labels, logits, shown.offsets, split=SPLIT),
        "eval/exposed/ne": metrics.ne(labels, logits, split=SPLIT),
        "eval/exposed/calibration": metrics.calibration(labels, logits, split=SPLIT),
        "eval/exposed/platt_intercept": intercept,
        "eval/exposed/platt_slope": slope,
    }
    per_request: dict[str, np.ndarray] = {
        f"exposed/hr@{TOP}": metrics.hr_at(TOP, labels, logits, shown.offsets),
        "exposed/mrr": metrics.mrr(labels, logits, shown.offsets),
        "exposed/ndcg": metrics.ndcg_at(None, labels, logits, shown.offsets),
        "exposed/ndcg@10": metrics.ndcg_at(10, labels, logits, shown.offsets),
    }
    losses = {
        "log_loss": metrics.cross_entropy(labels, logits),
        "log_loss_calibrated": metrics.cross_entropy(labels, calibrated),
    }
    if oracle is not None:
        truth = oracle.p_click[shown.rows].astype(np.float64)
        losses["log_loss_expected"] = metrics.cross_entropy(truth, calibrated)
        losses["log_loss_expected_raw"] = metrics.cross_entropy(truth, logits)
        losses["oracle_log_loss"] = metrics.entropy(truth)
        out |= {
            "eval/exposed/log_loss_expected": float(losses["log_loss_expected"].mean()),
            "eval/exposed/log_loss_expected_raw": float(losses["log_loss_expected_raw"].mean()),
            "eval/exposed/auc_roc_expected": metrics.auc_roc(truth, logits, split=SPLIT),
            "eval/oracle/log_loss": float(losses["oracle_log_loss"].mean()),
            "eval/oracle/auc_roc": metrics.auc_roc(truth, truth, split=SPLIT),
        }
    sums = {f"exposed/{name}_sum": shown.sum(values) for name, values in losses.items()}

    full = _Lists(columns, ~np.isnan(scores.full), held_out)
    if len(full.rows):
        labels, logits = columns.labels[full.rows, CLICK].astype(np.float64), scores.full[full.rows].astype(np.float64)
        out["eval/full/auc_roc"] = metrics.auc_roc(labels, logits, split=SPLIT)
        per_request[f"full/hr@{TOP}"] = metrics.hr_at(TOP, labels, logits, full.offsets)
        if oracle is not None:
            gains = oracle.p_click_top[full.rows]
            # No position is given here, so the logits are calibrated anew, to what they are held against.
            aside = _Lists(columns, ~np.isnan(scores.full), ~held_out)
            intercept, slope = fit_platt(oracle.p_click_top[aside.rows], scores.full[aside.rows])
            loss = metrics.cross_entropy(gains, intercept + slope * logits)
            out["eval/full/log_loss_expected"] = float(loss.mean())
            out["eval/full/auc_roc_expected"] = metrics.auc_roc(gains, logits, split=SPLIT)
            out["eval/oracle/full_log_loss"] = float(metrics.entropy(gains).mean())
            sums["full/log_loss_expected_sum"] = full.sum(loss)
            per_request[f"full/oracle_clicks@{TOP}"] = metrics.gain_at(TOP, gains, logits, full.offsets)
    for name, values in per_request.items():
        if not np.isnan(values).all():
            out[f"eval/{name}"] = float(np.nanmean(values))

    arrays: dict[str, Any] = {
        "request_id": columns.request_id[held_out],
        "exposed/num_candidates": np.diff(shown.offsets),
        "exposed/num_clicks": shown.sum(columns.labels[shown.rows, CLICK]),
        "exposed/logits": scores.exposed[shown.rows],
    }
    return Evaluation(metrics=out, arrays=arrays | sums | per_request)


def is_calibration(request_id: Int64[np.ndarray, "Q"]) -> np.ndarray:
    """Say which requests fit the calibration: a fifth, by a hash (splitmix64) of the id and nothing else."""
    x = np.asarray(request_id).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) % np.uint64(CALIBRATION_SHARE) == 0


def fit_platt(labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Fit intercept and slope of a logistic regression on the logits by Newton's method (Platt 1999), in float64.

    Labels may be probabilities. A split that does not identify them (one class only, or a constant score) leaves the slope at
    1, and the intercept at 0 without both classes.
    """
    y, z = np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    if not 0 < y.sum() < len(y):
        return 0.0, 1.0
    free = 2 if np.ptp(z) > 1e-6 else 1
    design = np.stack([np.ones_like(z), z], axis=1)
    theta = np.array([0.0, 1.0])
    loss = metrics.log_loss(y, design @ theta)
    for _ in range(100):
        p = metrics.sigmoid(design @ theta)
        gradient = (design * (p - y)[:, None]).mean(axis=0)[:free]
        hessian = (design.T * (p * (1 - p))) @ design / len(y)
        move = np.zeros(2)
        move[:free] = np.linalg.solve(hessian[:free, :free] + 1e-9 * np.eye(free), gradient)
        size = 1.0
        while size > 1e-6 and metrics.log_loss(y, design @ (theta - size * move)) > loss:
            size /= 2  # separable or badly scaled logits overshoot
        theta = theta - size * move if size > 1e-6 else theta
        loss = metrics.log_loss(y, design @ theta)
        if np.abs(move).max() < 1e-10 or size <= 1e-6:
            break
    return float(theta[0]), float(theta[1])


class _Lists:
    """The scored candidates of some requests: their rows in the columns, and where each of the requests begins among them."""

    def __init__(self, columns: Columns, scored: np.ndarray, requests: np.ndarray):
        kept = scored & np.repeat(requests, np.diff(columns.candidate_offsets))
        self.rows = np.flatnonzero(kept)
        per_request = np.add.reduceat(np.append(kept, False), columns.candidate_offsets[:-1], dtype=np.int64)
        per_request[np.diff(columns.candidate_offsets) == 0] = 0  # reduceat gives an empty range its first entry
        self.offsets = np.concatenate([[0], np.cumsum(per_request[requests])])

    def sum(self, values: np.ndarray) -> Float[np.ndarray, "Q"]:
        """Sum the rows' values for each request."""
        request = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return np.bincount(request, weights=values, minlength=len(self.offsets) - 1)
