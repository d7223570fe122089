# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Compare laws on the records of a sweep
#
# A sweep leaves a folder with its plan and a record a run. Point `SWEEP` at one (the `sweep` folder of a study); without one, a
# small folder of records is written here, of runs whose law is known.

# %%
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from IPython.display import SVG

from analysis import figures
from unisc.report import style
from unisc.scaling import tournament
from unisc.scaling.read import read_table
from unisc.sweep.plan import Run, run_folder, write_plan
from unisc.sweep.record import read_records, write_record
from unisc.sweep.table import write_table

SWEEP = None  # a folder that holds plan.jsonl and runs/
PARAMS, EXAMPLES, LOSS = "counts.num_params_dense", "counts.num_examples", "metrics.eval/log_loss"


# %%
@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A run of this sweep: how large, on how much, and which seed."""

    num_params: int
    num_examples: int
    seed: int


def write_sweep(folder: Path) -> None:
    """Write a plan and the records of runs that followed a law with some noise."""
    experiment = ModuleType("experiments.planted")
    vars(experiment).update(Config=Config, VERSION=1)
    folder.mkdir(parents=True)
    rng, runs = np.random.default_rng(0), []
    for size in np.geomspace(1e4, 3e6, 6).astype(int).tolist():
        for examples in np.geomspace(1e5, 1e7, 5).astype(int).tolist():
            config = Config(num_params=size, num_examples=examples, seed=0)
            runs.append(Run.of(experiment, config, cost=size * examples, label=f"{size} on {examples}"))
    for run in write_plan(folder, runs):
        size, examples = run.config["num_params"], run.config["num_examples"]
        loss = (0.30 + 0.8 * size**-0.3 + 3.0 * examples**-0.35) * np.exp(1e-3 * rng.standard_normal())
        counts = {"num_params_dense": size, "num_examples": examples}
        run_folder(folder, run.fingerprint).mkdir(parents=True)
        write_record(folder, run, {"metrics": {"eval/log_loss": float(loss)}, "counts": counts})


# %%
if SWEEP is None:
    SWEEP = Path(tempfile.mkdtemp()) / "sweep"
    write_sweep(SWEEP)
records = read_records(Path(SWEEP))
table = read_table(write_table(records, Path(tempfile.mkdtemp()) / "runs.parquet"))
print(f"{table.num_runs} runs with columns", ", ".join(name for name in table.table.column_names if "." in name))

# %% [markdown]
# ## The tournament
#
# Every law that the columns allow is fitted below growing cuts in compute and predicts the budgets beyond. Laws whose
# difference from the best could be chance are tied with it; carrying the last loss forward and the mean take part as baselines.

# %%
axes = {"N": table.numbers(PARAMS), "D": table.numbers(EXAMPLES)}
ranking = tournament(axes, table.numbers(LOSS))
print("best, or tied with it:", ", ".join(ranking.winners))
for name, reason in ranking.left_out.items():
    print(f"left out: {name} ({reason})")

# %%
SVG(style.svg(figures.tournament_ranking(ranking, metric="log loss")))

# %% [markdown]
# ## Mix rather than choose
#
# The stacked prediction weighs the laws by how they did together.

# %%
largest = {label: float(values.max()) for label, values in axes.items()}
for times in (1, 3, 10):
    at = {label: times * value for label, value in largest.items()}
    print(f"{times:2d} times the largest run: {ranking.predict(**at)[0]:.4f}")
