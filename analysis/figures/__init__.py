"""Figures of fits, one function each: result objects of `unisc.scaling` in, a matplotlib figure out."""

from analysis.figures.agreement import offline_online
from analysis.figures.composition import composition_curves
from analysis.figures.law import law_curves
from analysis.figures.plan import next_runs
from analysis.figures.ranking import tournament_ranking
from analysis.figures.trust import influence, profile_curves, residuals
from analysis.figures.valleys import approaches, isoflop_valleys, speedup

__all__ = [
    "approaches",
    "composition_curves",
    "influence",
    "isoflop_valleys",
    "law_curves",
    "next_runs",
    "offline_online",
    "profile_curves",
    "residuals",
    "speedup",
    "tournament_ranking",
]
