"""A/A tests of the simulated online test: how often does the interval of a ranker against itself hold zero?

`python -m benchmarks.online_aa --repeats 200 --workers 4`; with `--logs DIR --ranker FOLDER` of a trained one. One simulation
of many lives serves all repeats of three designs, which share nothing but users:

- split: half of the users by hash, another half each repeat; what a real test does (repeats share the outcomes);
- paired: two lives of every user, compared user by user; independent random numbers in both arms (nothing is shared);
- split, own lives: both at once; half of the users in one life, the others in another.

Common random numbers would give exactly zero, which is tested elsewhere and says nothing of intervals.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import stats

from analysis.online import LEVEL, Estimate, hashed, same_users, split
from data_gen.marketplace.config import preset
from data_gen.marketplace.generate import generate
from data_gen.marketplace.online import METRICS, SEGMENTS, Outcome
from experiments import online
from unisc.errors import InputError, run_command

SMALL = {
    "requests": 3_600, "users": 300, "users_per_shard": 100, "items": 4_000, "category_1": 4, "category_2": 12,
    "category_3": 40, "shops": 12, "queries": 160, "segments": 16, "new_items_per_day": 60,
}  # fmt: skip


def tests(outcome: Outcome, repeats: int) -> Iterator[tuple[str, str, Estimate]]:
    """Yield (design, metric, estimate) of each A/A test; life 2r against life 2r + 1 is repeat r."""
    users = np.unique(outcome.user_id)
    lives = 2 * repeats
    n = np.zeros((lives, len(users)))
    sums = np.zeros((lives, len(users), len(METRICS)))
    where = outcome.life, np.searchsorted(users, outcome.user_id)
    charge = SEGMENTS.index("in charge")
    n[where], sums[where] = outcome.requests[:, charge], outcome.sums[0, :, charge]
    for r in range(repeats):
        treated = (hashed(users, r) & np.uint64(1)).astype(bool)
        a, b = 2 * r, 2 * r + 1
        own = np.where(treated, n[b], n[a])
        for m, metric in enumerate(METRICS):
            first, second = sums[a, :, m], sums[b, :, m]
            yield "split", metric, split(n.sum(axis=0), *[sums[:, :, m].sum(axis=0)] * 2, treated)[0]
            yield "paired", metric, same_users((n[a], n[b]), (first, second))
            yield "split, own lives", metric, split(own, first, second, treated)[0]


def coverage(outcome: Outcome, repeats: int) -> list[tuple[str, str, int, float, float, float]]:
    """Return design, metric, how many intervals hold zero, and their share with its exact (Clopper-Pearson) interval."""
    held: dict[tuple[str, str], list[bool]] = {}
    for design, metric, found in tests(outcome, repeats):
        held.setdefault((design, metric), []).append(found.low <= 0 <= found.high)
    rows = []
    for (design, metric), of in held.items():
        exact = stats.binomtest(sum(of), len(of)).proportion_ci(LEVEL)
        rows.append((design, metric, sum(of), sum(of) / len(of), float(exact.low), float(exact.high)))
    return rows


def main() -> None:
    """Run the A/A tests and print their coverage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--logs", type=Path, help="of a shop; a small one is made if not given")
    parser.add_argument("--ranker", default="shop", help="shop, random, oracle, or a trained ranker's folder")
    parser.add_argument("--days", type=int, default=2, help="of each life")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if args.repeats < 1:
        raise InputError(f"--repeats {args.repeats}: give at least 1")
    with tempfile.TemporaryDirectory() as scratch:
        logs = args.logs or Path(scratch, "logs")
        if args.logs is None:
            generate(preset("default", seed=args.seed, **SMALL), logs, workers=1)
        shop = online.open_shop(logs)
        requests = round(2 * args.repeats * shop.config.requests / shop.config.days * args.days)
        settings = online.Settings(requests=requests, seed=args.seed, days=args.days)
        outcome = online.simulate(shop, [args.ranker], settings, workers=args.workers)
    volume = f"{shop.config.users} users, {requests:,} requests in {2 * args.repeats} lives, seed {args.seed}"
    print(f"{args.ranker} against itself, {volume}; how many {LEVEL:.0%} intervals hold zero")
    for design, metric, held, share, low, high in coverage(outcome, args.repeats):
        print(f"{design:18}{metric:11}{held} of {args.repeats}: {share:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    run_command("online_aa", main)
