"""How often 90 % intervals hold the truth: simulated tables of every law, refitted, with each way to make an interval.

    python benchmarks/coverage.py --tables 500 --json OUT [--laws chinchilla power_floor] [--jobs 4]

Every table is a planted law at a design of realistic sizes with 1 % lognormal errors (the signed laws: errors of 1 % of their
range; broken laws: 0.5 %), fitted under log residuals and squares. The target of the extrapolation is the law's mean at ten
times the largest size on every axis (from losses to a task: one unit of loss beyond the lowest). `default` is what `summarise`
and `prediction` return. An interval with an open end counts as covering only what it really contains; how many were open is
printed beside. The Chinchilla law and the power with a floor are also fitted with Huber's loss, to tables whose errors are
shared by days or by cells, and to tables whose errors differ (`unequal`); there `profile alone` ignores both.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import itertools
import json
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from unisc.scaling import LAWS, Contract, bootstrap, fit

LEVEL = 0.90
METHODS = ("default", "percentile", "basic", "residual")
SHARED, OWN = 0.01, 0.005
"""Spread of the errors of a cluster and of its runs in the clustered tables."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A law with planted parameters, its axes (X, n), and how the errors come about."""

    law: str
    truth: dict[str, float]
    axes: np.ndarray
    far: np.ndarray
    contract: Contract
    noise: float = 0.01
    clusters: np.ndarray | None = None
    unequal: bool = False
    label: str = "squares"


def cross(*values) -> np.ndarray:
    """Return every combination (X, n) of values given axis by axis."""
    return np.array(list(itertools.product(*values)), float).T


def designs() -> dict[str, tuple[dict[str, float], np.ndarray, float]]:
    """Return parameters, axes and noise of each law."""
    sizes, data = np.geomspace(4e7, 1e10, 6), np.geomspace(1e9, 1e11, 5)
    grid, line = cross(sizes, data), np.geomspace(1e7, 1e10, 10).repeat(3)[None]
    base = {"E": 1.7, "A": 400.0, "B": 400.0, "alpha": 0.34, "beta": 0.28}
    mixes = np.array([(d, d * foreign) for d in (1e9, 1e10, 1e11) for foreign in (0.0, 0.5, 2.0, 8.0)])
    mixed = np.array([(n, *mix) for n in np.geomspace(4e7, 1e10, 5) for mix in mixes]).T
    repeated = np.array(
        [(n, u * r, u) for n in np.geomspace(1e7, 4e9, 5) for u in (1e8, 1e9, 1e10) for r in (1, 2, 5, 12, 40)]
    ).T
    broken = np.geomspace(1e3, 1e9, 40)
    return {
        "power": ({"A": 12.0, "alpha": 0.1}, line, 0.01),
        "power_floor": ({"E": 1.7, "A": 400.0, "alpha": 0.34}, line, 0.01),
        "power_limit": ({"E": -0.02, "A": 20.0, "alpha": 0.35}, line, 0.01),
        "chinchilla": (base, grid, 0.01),
        "tied": ({"E": 1.7, "A": 400.0, "B": 600.0, "gamma": 0.3}, grid, 0.01),
        "kaplan": ({"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095}, grid, 0.01),
        "data_constrained": ({**base, "R_D": 12.0, "R_N": 5.0}, repeated, 0.01),
        "three_axes": (
            {"E": 1.0, "A": 400.0, "B": 100.0, "C": 400.0, "alpha": 0.34, "beta": 0.3, "gamma": 0.28},
            cross(np.geomspace(4e7, 1e10, 4), np.geomspace(1e6, 1e9, 4), np.geomspace(1e9, 1e11, 4)),
            0.01,
        ),
        "composition": ({**base, "w_D2": 0.31}, mixed, 0.01),
        "composition_by_size": ({**base, "w_D2": 0.31, "k_D2": 0.05}, mixed, 0.01),
        "bnsl": ({"a": 0.2, "b": 6.0, "c0": 0.1, "c1": 0.5, "d1": 1e6, "f1": 0.3}, broken[None], 0.005),
        "bnsl2": (
            {"a": 0.2, "b": 6.0, "c0": 0.1, "c1": 0.6, "d1": 1e5, "f1": 0.2, "c2": -0.4, "d2": 1e7, "f2": 0.2},
            np.sort(np.concatenate([broken, broken]))[None],
            0.005,
        ),
        "log_linear": ({"c0": 8.0, "c1": -0.1, "c2": -0.12}, grid, 0.01),
        "log_quadratic": ({"c0": 40.0, "c1": -1.6, "c2": -1.5, "q1": 0.035, "q2": 0.03}, grid, 0.01),
        "logit_linear": ({"c0": 3.0, "c1": -0.12, "c2": -0.05}, grid, 0.01),
        "task_from_loss": ({"c0": -4.0, "c1": 1.5}, np.linspace(2.0, 3.5, 15).repeat(2)[None], 0.01),
    }


def cases(names) -> list[Case]:
    """Return what is simulated for the laws named."""
    out = []
    for law, (truth, axes, noise) in designs().items():
        if law not in names:
            continue
        far = 10 * axes.max(axis=1, keepdims=True) if law != "task_from_loss" else axes.min(axis=1, keepdims=True) - 1.0
        space = "loss" if LAWS[law].signed else "logit" if law in ("logit_linear", "task_from_loss") else "log"
        bounds = {"lower": 0.0, "upper": 1.0} if space == "logit" else {}
        plain = {"law": law, "truth": truth, "axes": axes, "far": far, "noise": noise}
        out.append(Case(**plain, contract=Contract(space=space, loss="squared", **bounds)))
        if law not in ("chinchilla", "power_floor"):
            continue
        out += [Case(**plain, contract=Contract(huber_delta=d), label=f"Huber {d:g}") for d in (0.02, 1e-3)]
        squares = Contract(loss="squared")
        runs = axes.shape[1]
        days = {**plain, "axes": np.tile(axes, 10)}
        out.append(Case(**days, contract=squares, clusters=np.arange(10).repeat(runs), label="10 days"))
        cells = {**plain, "axes": axes.repeat(3, axis=1)}
        out.append(Case(**cells, contract=squares, clusters=np.arange(runs).repeat(3), label=f"{runs} cells x 3 seeds"))
        out.append(Case(**plain, contract=squares, unequal=True, label="unequal"))
    return out


def simulate(case: Case, seed: int, draws: int) -> dict[str, list[tuple[bool, bool]]]:
    """Return for each method and quantity whether the interval of one table holds the truth, and whether it is bounded."""
    rng = np.random.default_rng([seed, *case.law.encode(), *case.label.encode()])
    labels = ("N", "D1", "D2") if case.law.startswith("composition") else None
    law = LAWS[case.law].of(case.axes, np.ones(case.axes.shape[1]), labels or LAWS[case.law].axes, case.contract.span)
    theta = law.internal(np.array([list(case.truth.values())]))
    mean, far = law.predict(theta, case.axes)[0], float(law.predict(theta, case.far)[0, 0])
    runs = len(mean)
    error = case.noise * rng.standard_normal(runs)
    if case.clusters is not None:
        shared = rng.standard_normal(case.clusters.max() + 1)[case.clusters]
        error = SHARED * shared + OWN * rng.standard_normal(runs)
    if case.unequal:  # larger at the ends of the first axis, which decide its exponent
        place = np.log(case.axes[0])
        error = error * (0.3 + 2.0 * np.abs(place - place.mean()) / np.ptp(place))
    link = case.contract.link
    scale = np.ptp(mean) if case.contract.space == "loss" else 1.0
    columns = (*case.axes, link.inverse(link(mean) + scale * error))
    found = fit(case.law, *columns, contract=case.contract, labels=labels, num_starts=8 if found_easily(case.law) else 24)
    boot = bootstrap(found, clusters=case.clusters, draws=draws, seed=seed)
    resampled = bootstrap(found, kind="residual", draws=draws, seed=seed)
    truths = [*case.truth.values(), far]
    out = {}
    for name in METHODS:
        by, how = (resampled, "percentile") if name == "residual" else (boot, "profile" if name == "default" else name)
        intervals = [by.interval(p, LEVEL, how) for p in case.truth]
        intervals.append(by.prediction(*case.far[:, 0], level=LEVEL, method=how))
        out[name] = [(i.holds(t), i.bounded) for i, t in zip(intervals, truths, strict=True)]
    if case.clusters is not None or case.unequal:
        alone = bootstrap(found, kind="residual", draws=1)  # whose intervals are profiles, whatever the errors
        intervals = [*(alone.interval(p, LEVEL) for p in case.truth), alone.prediction(*case.far[:, 0], level=LEVEL)]
        out["profile alone"] = [(i.holds(t), i.bounded) for i, t in zip(intervals, truths, strict=True)]
    return out


def found_easily(law: str) -> bool:
    """Whether a few starts find the optimum of a law."""
    return not law.startswith(("bnsl", "data_constrained"))


def batch(task: tuple[Case, range, int]) -> list[dict]:
    """Simulate some tables of a case."""
    case, seeds, draws = task
    return [simulate(case, seed, draws) for seed in seeds]


def table(case: Case, simulated: list[dict]) -> list[dict]:
    """Return one row per method and quantity: hits, tables, the binomial interval of the coverage, share bounded."""
    rows = []
    for method in simulated[0]:
        cells = np.array([one[method] for one in simulated])
        for index, quantity in enumerate([*case.truth, "10x"]):
            hits, count = int(cells[:, index, 0].sum()), len(cells)
            ends = binomtest(hits, count).proportion_ci(0.95, method="wilson")
            row = {"law": case.law, "errors": case.label, "runs": case.axes.shape[1], "method": method, "quantity": quantity}
            row |= {"covered": hits, "tables": count, "coverage": hits / count, "low": ends.low, "high": ends.high}
            rows.append(row | {"bounded": float(cells[:, index, 1].mean())})
    return rows


def show(rows: list[dict]) -> None:
    """Print one line per law, errors and method."""
    grouped = defaultdict(list)
    for row in rows:
        grouped[row["law"], row["errors"], row["runs"], row["method"]].append(row)
    for (law, errors, runs, method), of in grouped.items():
        parts = [f"{r['quantity']} {r['coverage']:.3f} [{r['low']:.2f}, {r['high']:.2f}]" for r in of]
        opened = [f"{r['quantity']} open {1 - r['bounded']:.0%}" for r in of if r["bounded"] < 1]
        print(
            f"{law}, {errors}, {runs} runs, {method}: {'; '.join(parts)}{' | ' if opened else ''}{', '.join(opened)}",
            flush=True,
        )


def summary(rows: list[dict]) -> str:
    """Return a Markdown table: a line per law and kind of errors, coverage of its parameters and of the extrapolation."""
    methods = [*METHODS, "profile alone"]
    lines = ["| law | errors | runs | " + " | ".join(f"{m}: parameters; 10x" for m in methods) + " | open |"]
    lines.append("|---" * (4 + len(methods)) + "|")
    grouped = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[row["law"], row["errors"], row["runs"]][row["method"]].append(row)
    for (law, errors, runs), of in grouped.items():
        cells = []
        for method in methods:
            *params, far = [r["coverage"] for r in of[method]] or [None]
            cells.append(f"{min(params):.3f} to {max(params):.3f}; {far:.3f}" if far is not None else "")
        opened = [f"{r['quantity']} {1 - r['bounded']:.0%}" for r in of["default"] if r["bounded"] < 1]
        lines.append(f"| {law} | {errors} | {runs} | {' | '.join(cells)} | {', '.join(opened)} |")
    return "\n".join(lines)


def main() -> None:
    """Simulate, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=500)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--laws", nargs="*", default=list(LAWS), choices=list(LAWS))
    parser.add_argument("--errors", nargs="*", help="kinds of errors by label: squares, unequal, ...")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    began, rows = time.perf_counter(), []
    with ProcessPoolExecutor(args.jobs) as pool:
        chosen = [case for case in cases(args.laws) if not args.errors or case.label in args.errors]
        step = 10
        pending = [
            (
                case,
                [
                    pool.submit(batch, (case, range(s, min(s + step, args.tables)), args.draws))
                    for s in range(0, args.tables, step)
                ],
            )
            for case in chosen
        ]
        for case, futures in pending:
            start = len(rows)
            rows += table(case, [one for future in futures for one in future.result()])
            show(rows[start:])
            settings = {"tables": args.tables, "draws": args.draws, "level": LEVEL, "seconds": time.perf_counter() - began}
            args.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    print(summary(rows))
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
