"""How `unisc fit TABLE` is to read a table and what it is to fit.

Outside of `unisc.scaling`, so that the command line can list its options without importing what fits.
"""

from dataclasses import dataclass
from typing import Literal

Space = Literal["loss", "log", "logit"]
"""Where residuals are measured."""
Holdout = Literal["size", "data", "either", "both", "compute"]
"""What a backtest holds out the largest of."""


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
