"""What a change of loss is worth in examples: a data law read backwards at the examples at hand.

With L(D) = E + A/D^alpha, the law lies `change` above L(D) at D' = D (1 + change D^alpha / A)^(-1/alpha). The floor cancels:
what counts is how steep the law is at D, which runs around D settle far better than any of its parameters.
"""

import numpy as np

from unisc.errors import InputError
from unisc.scaling.bootstrap import Bootstrap
from unisc.scaling.intervals import Interval

LAWS = ("power", "power_floor", "power_limit")


def equivalent_examples(boot: Bootstrap, examples: float, change: float, draws=None, *, level: float = 0.90) -> Interval:
    """Return the ratio D'/D of examples whose loss by the law is `change` above that of D = `examples`; below 1 if it is worse.

    `boot` holds a law of one axis, examples, and its refits; `draws` (m,) are draws of the change where it is itself an
    estimate. The interval is of both, taken as independent. Where the law has no examples that are good enough, the change
    being a gain to or under its floor, the ratio is infinite: a value that is so, or an open end, says it in its note.

    Raises:
      InputError: a law of another form, or examples not above 0.
    """
    law = boot.fit.law
    if law.name not in LAWS:
        raise InputError(f"law {law.name!r} cannot be read backwards in examples; fit one of {', '.join(LAWS)}")
    if not (np.isfinite(examples) and examples > 0):
        raise InputError(f"examples are {examples}; give a positive number")
    columns = [law.names.index(name) for name in ("A", "alpha")]

    def ratio(theta: np.ndarray, of: np.ndarray) -> np.ndarray:
        amplitude, exponent = law.natural(theta)[:, columns].T
        with np.errstate(divide="ignore", over="ignore"):
            inner = 1 + of * examples**exponent / np.maximum(amplitude, 1e-300)
            # A law without a slope has no examples for a change; the logarithm's limit is the ratio's.
            log_ratio = -np.log(np.maximum(inner, 1e-300)) / np.maximum(exponent, 1e-9)
            return np.where(inner > 0, np.exp(np.minimum(log_ratio, 700)), np.inf)

    value = float(ratio(boot.fit.theta[None], np.array([change]))[0])
    count = len(boot.draws)
    if not count:
        return Interval(value=value, low=None, high=None, level=level, method="none", note="no interval: no refits")
    picked = np.random.default_rng(0).permutation(count)
    changes = np.full(count, change) if draws is None else np.resize(np.asarray(draws, float), count)
    drawn = ratio(boot.draws[picked], changes)
    low, high = (float(np.quantile(drawn, q, method="nearest")) for q in ((1 - level) / 2, (1 + level) / 2))
    never = float(np.mean(np.isinf(drawn)))
    return Interval(
        value=value,
        low=low if np.isfinite(low) else None,
        high=high if np.isfinite(high) else None,
        level=level,
        method=f"{boot.method} of the data law, percentile",
        note=f"unbounded above: in {never:.0%} of the draws the law's floor is not low enough" if np.isinf(high) else "",
    )
