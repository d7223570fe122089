"""Do planned runs buy what the plan says? `python benchmarks/planning.py --tables 400 --json OUT`.

Each table is a Chinchilla surface of its own (exponents, amplitudes and floor drawn anew) measured on a grid with noise. A plan
is made from its fit, its runs are made, the law is refitted, and the squared error at the target is set against the variance
that the plan expects. The same budget is spent at random, on the one largest run, on repeats of the table's most telling run,
and not at all. Errors are in units of the plan's expected variance, so that no table outweighs the rest.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from unisc.errors import run_command
from unisc.scaling import Contract, fit
from unisc.scaling.candidates import Candidates
from unisc.scaling.planning import Option, plan

WAYS = ("none", "plan", "random", "largest", "repeats")
LEVEL = 0.90


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """How tables are made and what may be spent: a share of what the table itself cost, a target beyond it."""

    noise: float = 0.005
    sizes: int = 5
    share: float = 1.0
    beyond: float = 10.0
    max_runs: int = 8
    loss: Literal["squared", "huber", "absolute"] = "squared"


def simulate(world: World, seed: int) -> dict[str, tuple[float, float]]:
    """Return, by way to spend, the squared error of the refit at the target and the variance expected of it."""
    rng = np.random.default_rng(seed)
    floor, alpha, beta = rng.uniform(1.2, 2.0), rng.uniform(0.25, 0.5), rng.uniform(0.25, 0.5)
    size, data = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, world.sizes), np.geomspace(3e8, 3e10, world.sizes)))
    parts = rng.uniform(0.3, 0.9, 2) * np.array([1e8**alpha, 3e9**beta])

    def truth(n, d):
        return floor + parts[0] / n**alpha + parts[1] / d**beta

    def measure(n, d):
        return truth(n, d) * np.exp(world.noise * rng.standard_normal(np.shape(n)))

    loss = measure(size, data)
    contract = Contract(loss=world.loss)
    target = (1e9 * world.beyond, 3e10 * world.beyond)
    found = fit("chinchilla", size, data, loss, contract=contract, num_starts=6)
    budget = world.share * float((6 * size * data).sum())
    candidates = Candidates.grid(found, within=3.0)
    made = plan(found, targets=[target], budget=budget, candidates=candidates, level=LEVEL, max_runs=world.max_runs)

    def error(runs: list[tuple[float, float]]) -> float:
        more = np.array(runs).reshape(-1, 2).T
        table = [np.concatenate(pair) for pair in ((size, more[0]), (data, more[1]), (loss, measure(*more)))]
        again = fit("chinchilla", *table, contract=contract, num_starts=4, starts=list(found.params.values()))
        return float(again.predict(*target)[0] - truth(*target)) ** 2

    results = {"none": (error([]), variance(made.before, found.num_runs))}
    options: dict[str, Option] = {"plan": made.chosen, **made.others}
    for name, option in options.items():
        runs = [tuple(run.at.values()) for run in option.runs for _ in range(run.repeats)]
        results[name] = (error(runs), variance(option.widths, found.num_runs + option.num_runs))
    results["random"] = (error(at_random(candidates, budget, world.max_runs, rng)), np.nan)
    return results


def variance(widths: np.ndarray, num_runs: int) -> float:
    """Return the variance behind the width of a Student t interval of a Chinchilla law."""
    return float(widths[0] / (2 * stdtrit(num_runs - 5, 0.5 + LEVEL / 2))) ** 2


def at_random(candidates: Candidates, budget: float, max_runs: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return candidates drawn one after the other, evenly, of those still affordable."""
    runs: list[tuple[float, float]] = []
    while len(runs) < max_runs and (near := np.flatnonzero(candidates.cost <= budget)).size:
        drawn = rng.choice(near)
        runs.append(tuple(candidates.axes[:, drawn]))
        budget -= candidates.cost[drawn]
    return runs


def summarise(results: list[dict[str, tuple[float, float]]], draws: int = 2000) -> dict[str, dict[str, list[float]]]:
    """Return, by way: the mean squared error over the variance expected (`calibration`), and over the plan's own (`against`).

    Each is value, low, high: 90 % intervals over resampled tables.
    """
    plans = np.array([row["plan"][1] for row in results])
    errors = {way: np.array([row[way][0] for row in results if way in row]) / plans for way in WAYS}
    expected = {way: np.array([row[way][1] for row in results]) / plans for way in WAYS}
    picked = np.random.default_rng(0).integers(len(plans), size=(draws, len(plans)))

    def ratio(top: np.ndarray, bottom: np.ndarray) -> list[float]:
        drawn = np.quantile(top[picked].mean(axis=1) / bottom[picked].mean(axis=1), [0.05, 0.95])
        return [float(top.mean() / bottom.mean()), *map(float, drawn)]

    found = {way: {"against_plan": ratio(errors[way], errors["plan"])} for way in WAYS}
    for way in found.keys() - {"random"}:  # Nothing was expected of it.
        found[way]["calibration"] = ratio(errors[way], expected[way])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tables", type=int, default=400)
    parser.add_argument("--noise", type=float, default=World().noise, help="standard deviation of log loss")
    parser.add_argument("--share", type=float, default=World().share, help="budget over what the table cost")
    parser.add_argument("--beyond", type=float, default=World().beyond, help="target over the table's largest size and data")
    parser.add_argument("--loss", choices=("squared", "huber", "absolute"), default=World().loss)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world = World(noise=args.noise, share=args.share, beyond=args.beyond, loss=args.loss)
    start = time.perf_counter()
    found = summarise([simulate(world, seed) for seed in range(args.tables)])
    print(f"{args.tables} tables, {time.perf_counter() - start:.0f} s; mean squared errors with 90 % intervals over tables")
    print(f"  {'spent on':10} {'over the variance expected':30} over the planned runs' error")
    for way, row in found.items():
        texts = [
            f"{v[0]:.2f} [{v[1]:.2f}, {v[2]:.2f}]" if (v := row.get(name)) else "-" for name in ("calibration", "against_plan")
        ]
        print(f"  {way:10} {texts[0]:30} {texts[1]}")
    if args.json:
        args.json.write_text(json.dumps({"tables": args.tables, "ways": found}, indent=1))


if __name__ == "__main__":
    run_command("planning", main)
