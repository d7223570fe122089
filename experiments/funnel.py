"""Interests in the ranking stage: does a ranker that reads what KARMA thinks of a candidate rank better than one that does not?

Question:  KARMA's interest is said to serve the whole funnel (arXiv 2603.22779). One run trains HHSFT on samples that have the
           score of interest and candidate as a further number, or on the same requests without it. KARMA was trained on earlier
           requests, so that its scores are of pages that it has not seen.
Command:   `unisc sweep run sweeps/funnel.py --preset laptop --out DIR`, or `python -m sweeps.funnel DIR`, with a table.
Cost:      a KARMA a seed and objective (minutes of four cores), then about 10 seconds of one core a run.
Expected:  the paper reports +.25 CTR AUC in its ranking stage; what this shop gives is in `experiments/LOG.md`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments import uniscale
from unisc.config import Runtime

VERSION = 1
"""Raised by hand whenever the same configuration would give other numbers."""

METRICS = ("eval/exposed/auc_roc", "eval/exposed/gauc", "eval/full/auc_roc", "eval/exposed/log_loss_calibrated")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One run of `experiments.uniscale` on the samples in the folder `samples/<arm>`."""

    arm: str
    run: uniscale.Config


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Train on one arm's samples and score on the test day, the same for all; return metrics, counts and timing.

    Raises:
      InputError: the samples are not the ones the configuration names.
    """
    return uniscale.run_in(config.run, config.arm, runtime)
