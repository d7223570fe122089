"""Fit scaling laws and say how sure they are; numpy and scipy only, usable on anybody's run table."""

from unisc.scaling.backtest import Backtest, leave_largest_out
from unisc.scaling.bootstrap import Bootstrap, bootstrap
from unisc.scaling.candidates import Budget, Candidates
from unisc.scaling.certificate import Basin, Certificate
from unisc.scaling.compute_optimal import compute_optimal
from unisc.scaling.contract import Contract
from unisc.scaling.extrapolation import Extrapolation, extrapolation
from unisc.scaling.fit import Fit, fit
from unisc.scaling.gains import normalised_entropy, paired_gains
from unisc.scaling.interaction import Cells, Contrast, Synergy, additive_test, contrast, slope_difference, synergy
from unisc.scaling.intervals import Interval, summarise
from unisc.scaling.isoflop import isoflop
from unisc.scaling.laws import LAWS, Law, Parameter
from unisc.scaling.planning import plan
from unisc.scaling.profile import Profile, profile, profile_prediction, profiles
from unisc.scaling.robustness import Recount, robustness
from unisc.scaling.runs import Runs
from unisc.scaling.speedup import effective_speedup, equal_loss
from unisc.scaling.tournament import Tournament, tournament

__all__ = [
    "LAWS",
    "Backtest",
    "Basin",
    "Bootstrap",
    "Budget",
    "Candidates",
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
    "Recount",
    "Runs",
    "Synergy",
    "Tournament",
    "additive_test",
    "bootstrap",
    "compute_optimal",
    "contrast",
    "effective_speedup",
    "equal_loss",
    "extrapolation",
    "fit",
    "isoflop",
    "leave_largest_out",
    "normalised_entropy",
    "paired_gains",
    "plan",
    "profile",
    "profile_prediction",
    "profiles",
    "robustness",
    "slope_difference",
    "summarise",
    "synergy",
    "tournament",
]
