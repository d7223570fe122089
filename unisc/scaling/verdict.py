"""Why a fit is not to be trusted, in sentences."""

from collections.abc import Mapping
from typing import Any

from unisc.scaling.backtest import Backtest
from unisc.scaling.fit import Fit

MIN_AGREEMENT = 0.2
MIN_RUNS_A_PARAMETER = 3
CLOSE_BASIN = 1.01
"""A second basin whose objective is within this factor of the best could as well have been the answer."""


def concerns(fit: Fit, intervals: Mapping[str, Mapping[str, Any]], backtest: Backtest | None) -> tuple[str, ...]:
    """Return what speaks against a fit, one sentence each; none where nothing does."""
    found = []
    certificate = fit.certificate
    if fit.num_runs < MIN_RUNS_A_PARAMETER * fit.num_free:
        found.append(
            f"{fit.num_runs} runs for {fit.num_free} parameters: a law this free follows almost anything; "
            f"use {MIN_RUNS_A_PARAMETER * fit.num_free} runs or a smaller law"
        )
    if certificate.num_starts > 1 and certificate.agreement < MIN_AGREEMENT:
        found.append(
            f"only {certificate.agreement:.0%} of {certificate.num_starts} starts reach the optimum: there may be a better"
        )
    found += [f"{bound}: the table does not hold it back" for bound in certificate.bounds_hit]
    second = certificate.second
    if second is not None and second.objective <= CLOSE_BASIN * fit.objective:
        found.append(
            f"a second basin is {second.objective / fit.objective - 1:.2%} worse and differs by up to "
            f"{second.furthest:.1%} in the runs' losses: {_numbers(second.parameters)}"
        )
    opened = [name for name, i in intervals.items() if (i["low"] is None or i["high"] is None) and i["method"] != "none"]
    if opened:
        found.append(f"{', '.join(opened)}: the table does not say how large (unbounded interval)")
    if backtest is None:
        found.append("no backtest: too few runs are left without the largest")
    elif not backtest.beats_baselines:
        law, *others = backtest.scores.items()
        better = [name for name, score in others if score.mean_absolute <= law[1].mean_absolute]
        found.append(f"held-out runs are predicted as well or better by {', '.join(better)}")
    if backtest is not None and backtest.coverage is not None:
        spread = (backtest.level * (1 - backtest.level) / len(backtest.measured)) ** 0.5
        if backtest.coverage < backtest.level - 2 * spread:
            found.append(
                f"only {backtest.coverage:.0%} of {len(backtest.measured)} held-out runs lie inside the {backtest.level:.0%} "
                "prediction interval: larger runs scatter more, or the law bends; intervals beyond the table are too narrow"
            )
    return tuple(found)


def _numbers(parameters: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in parameters.items())
