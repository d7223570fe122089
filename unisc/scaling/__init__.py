"""Fit scaling laws and say how sure they are; numpy and scipy only, usable on anybody's run table."""

from unisc.scaling.backtest import Backtest, leave_largest_out
from unisc.scaling.bootstrap import Bootstrap, bootstrap
from unisc.scaling.certificate import Basin, Certificate
from unisc.scaling.contract import Contract
from unisc.scaling.extrapolation import Extrapolation, extrapolation
from unisc.scaling.fit import Fit, fit
from unisc.scaling.interaction import Cells, Contrast, Synergy, additive_test, contrast, slope_difference, synergy
from unisc.scaling.intervals import Interval, summarise
from unisc.scaling.laws import LAWS, Law, Parameter
from unisc.scaling.profile import Profile, profile, profile_prediction, profiles

__all__ = [
    "LAWS",
    "Backtest",
    "Basin",
    "Bootstrap",
    "Cells",
    "Certificate",
    "Contract",
    "Contrast",
    "Extrapolation",
    "Fit",
    "Interval",
    "Law",
    "Parameter",
    "Profile",
    "Synergy",
    "additive_test",
    "bootstrap",
    "contrast",
    "extrapolation",
    "fit",
    "leave_largest_out",
    "profile",
    "profile_prediction",
    "profiles",
    "slope_difference",
    "summarise",
    "synergy",
]
