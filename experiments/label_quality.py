"""What is a right label worth? A ranker trained on attributed samples whose labels were made worse on purpose.

Question:  UniScale (arXiv 2603.24226) writes what happened outside search onto search samples. One run trains one ranker on
           one such set: attributed as intended, in other windows, under another relevance rule, or with a known share of
           the labels on wrong items. The shop's truth says how right each set's labels are.
Command:   `unisc sweep run sweeps/label_quality.py --preset laptop --out DIR`, then
           `python -m analysis.label_quality DIR --out OUT`.
Cost:      about 10 seconds of one core a run; the presets are in `sweeps/label_quality.py`.
Expected:  the paper reports no ablation of attribution. Wrong labels should cost loss; what a point of precision costs, and how
           many samples that is, is the result. What this shop gives is in `experiments/LOG.md`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments import uniscale
from unisc.config import Runtime

VERSION = 1
"""Raised by hand whenever the same configuration would give other numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One run of `experiments.uniscale` on the samples in the folder `samples/<degradation>`."""

    degradation: str
    run: uniscale.Config


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Train on one set of samples and score on the test day, the same for all; return metrics, counts and timing.

    Raises:
      InputError: the samples are not the ones the configuration names.
    """
    return uniscale.run_in(config.run, config.degradation, runtime)
