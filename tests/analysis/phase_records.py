"""Records of a phase diagram that never ran, with planted gains."""

import itertools

import numpy as np

SIZES = {"xs": 12_000, "m": 68_000, "xl": 236_000}
SHARES = (0.0, 0.25, 0.5, 1.0)
OVERLAPS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


def pooling(overlap, size, share, isolation):
    """A gain in AUC-ROC points, zero at an overlap of .7 without isolation and of .5 with it, at every size and share."""
    zero = 0.7 if isolation == "none" else 0.5
    grown = 1 + 0.2 * np.log(size / 68_000)
    return 5 * (overlap**2 - zero**2) * grown * (share - 0.3 * share**2)


def records(*, gain=pooling, seeds=(0, 1, 2), noise=0.2, world=0.15, sizes=SIZES, draw=0, overlaps=OVERLAPS):
    """Return records: each run's noise has the given deviation in points, each shop's gains share one of their own."""
    rng = np.random.default_rng(draw)
    return [
        _record(rng, *shop, of_shop, isolation, size, share, gain, noise, sizes)
        for shop in itertools.product(overlaps, seeds)
        for of_shop in [world * rng.standard_normal()]
        for isolation, size, share in itertools.product(("none", "both"), sizes, SHARES)
    ]


def _record(rng, overlap, seed, of_shop, isolation, size, share, gain, noise, sizes):
    points = gain(overlap, sizes[size], share, isolation) + of_shop * share + noise * rng.standard_normal()
    return {
        "experiment": "experiments.phase",
        "label": f"phase/{size}/overlap{overlap:g}@{share:g}/{isolation}/seed{seed}",
        "config": {
            "size": size,
            "data": {"overlap": overlap, "foreign": share, "queries": "none"},
            "model": {"isolation": isolation},
            "train": {"seed": seed},
        },
        "metrics": {
            "eval/exposed/auc_roc_expected": 0.73 + overlap / 100 + points / 100,
            "eval/exposed/log_loss_expected": 0.37 - points / 1000,
        },
        "counts": {
            "num_params_dense": sizes[size],
            "num_examples_own": 40_000,
            "num_examples_foreign": 107_000 * share,
        },
    }
