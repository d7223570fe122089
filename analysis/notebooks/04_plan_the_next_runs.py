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
# # Plan the next runs
#
# Given what may be spent, which runs would shrink the interval of a prediction most? A run far out pins the law near the
# target, a cheap one pins an exponent; which is worth more follows from the fit. A plan cannot buy a law that holds: see the
# backtest.

# %%
import numpy as np
from IPython.display import SVG

from analysis import figures
from unisc.report import style
from unisc.scaling import Budget, Contract, bootstrap, fit, plan, robustness
from unisc.scaling.read import read_table

TABLE = None  # a table of your own with columns N, D and loss
TARGET = {"N": 1e10, "D": 2e11}

# %%
if TABLE is None:
    size, data = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 3e8, 5), np.geomspace(3e8, 1e10, 4)))
    loss = 1.7 + 400 * size**-0.34 + 410 * data**-0.28
    loss *= np.exp(2e-3 * np.random.default_rng(0).standard_normal(len(size)))
else:
    table = read_table(TABLE)
    size, data, loss = (table.numbers(name) for name in ("N", "D", "loss"))
found = fit("chinchilla", size, data, loss, contract=Contract(metric="loss", loss="squared"))

# %% [markdown]
# ## What the prediction hangs on now

# %%
boot = bootstrap(found, draws=200)
panel = robustness(found, targets=[TARGET], boot=boot)
SVG(style.svg(figures.influence(panel, boot.prediction(TARGET["N"], TARGET["D"]), most=8)))

# %% [markdown]
# ## What to run next
#
# The budget may be FLOPs, device-hours or money.

# %%
budget = Budget.device_hours(200, flops_per_hour=0.4 * 1e15 * 3600)
planned = plan(found, targets=[TARGET], budget=budget, max_runs=6)
for run in planned.chosen.runs:
    print(f"{run.repeats} x", ", ".join(f"{label} = {value:.3g}" for label, value in run.at.items()), f"({run.cost:.2e} FLOPs)")
print(f"the interval at the target becomes {planned.chosen.ratio:.2f} times as wide")
for name, other in planned.others.items():
    print(f"{name}: {other.ratio:.2f} times")
print(*planned.notes, sep="\n")

# %%
SVG(style.svg(figures.next_runs(planned)))
