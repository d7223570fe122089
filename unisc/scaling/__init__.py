"""Fit scaling laws and say how sure they are; numpy and scipy only, usable on anybody's run table."""

from unisc.scaling.backtest import Backtest, leave_largest_out
from unisc.scaling.certificate import Basin, Certificate
from unisc.scaling.contract import Contract
from unisc.scaling.fit import Fit, fit
from unisc.scaling.interaction import Cells, Contrast, Synergy, additive_test, contrast, slope_difference, synergy
from unisc.scaling.intervals import Bootstrap, Interval, bootstrap, profile, summarise
from unisc.scaling.laws import LAWS, Law, Parameter
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
    "Synergy",
    "Tournament",
    "additive_test",
    "bootstrap",
    "contrast",
    "fit",
    "leave_largest_out",
    "profile",
    "slope_difference",
    "summarise",
    "synergy",
    "tournament",
]
