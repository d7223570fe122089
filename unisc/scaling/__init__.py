"""Fit scaling laws and say how sure they are; numpy and scipy only, usable on anybody's run table."""

from unisc.scaling.backtest import Backtest, leave_largest_out
from unisc.scaling.certificate import Basin, Certificate
from unisc.scaling.compute_optimal import compute_optimal
from unisc.scaling.contract import Contract
from unisc.scaling.fit import Fit, fit
from unisc.scaling.interaction import Cells, Contrast, Synergy, additive_test, contrast, slope_difference, synergy
from unisc.scaling.intervals import Bootstrap, Interval, bootstrap, profile, summarise
from unisc.scaling.isoflop import isoflop
from unisc.scaling.laws import LAWS, Law, Parameter
from unisc.scaling.runs import Runs
from unisc.scaling.speedup import effective_speedup, equal_loss
from unisc.scaling.tournament import Tournament, tournament

__all__ = [
    "LAWS",
    "Backtest",
    "Basin",
    "Bootstrap",
    "Cells",
    "Certificate",
    "Contract",
    "Contrast",
    "Fit",
    "Interval",
    "Law",
    "Parameter",
    "Runs",
    "Synergy",
    "Tournament",
    "additive_test",
    "bootstrap",
    "compute_optimal",
    "contrast",
    "effective_speedup",
    "equal_loss",
    "fit",
    "isoflop",
    "leave_largest_out",
    "profile",
    "slope_difference",
    "summarise",
    "synergy",
    "tournament",
]
