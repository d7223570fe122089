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
# # Fit somebody's table
#
# A run table needs a row a run: how large the model was, how much data it saw, what loss it reached. Here is a small one whose
# law is known, so that what the fit says can be checked. Put the path of your own table, and its columns, in the next cell.

# %%
import tempfile
from pathlib import Path

import numpy as np
from IPython.display import SVG

from analysis import figures
from unisc.report import style
from unisc.scaling import profiles
from unisc.scaling.command import FitOptions, fit_table
from unisc.scaling.describe import outcome_lines

TABLE = None  # a .csv, .parquet or .jsonl of your own
OPTIONS = FitOptions(params_col="params", data_col="tokens", metric_col="loss", bootstrap=200, target=("N=1e10,D=2e11",))

# %%
TRUTH = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
if TABLE is None:
    TABLE = Path(tempfile.mkdtemp()) / "runs.csv"
    size, data = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(3e8, 3e10, 6)))
    loss = TRUTH["E"] + TRUTH["A"] * size ** -TRUTH["alpha"] + TRUTH["B"] * data ** -TRUTH["beta"]
    loss *= np.exp(2e-3 * np.random.default_rng(0).standard_normal(len(size)))
    np.savetxt(TABLE, np.stack([size, data, loss], axis=1), delimiter=",", header="params,tokens,loss", comments="")

# %% [markdown]
# ## What the fit says
#
# The same as `unisc fit runs.csv --params-col params --data-col tokens`: what was minimised, the parameters with their
# intervals, the certificate of the optimum, the backtest beside naive baselines, and in sentences what speaks against the fit.

# %%
found = fit_table(Path(TABLE), OPTIONS)
print(*outcome_lines(found), sep="\n")

# %% [markdown]
# ## Is the optimum one?
#
# Starts that end elsewhere, a gradient that is not zero, a bound that was met: each would be a reason not to read on.

# %%
certificate = found.fit.certificate
print(f"{certificate.agreement:.0%} of {certificate.num_starts} starts agree, gradient {certificate.gradient_norm:.1e}")
print("bounds hit:", ", ".join(certificate.bounds_hit) or "none")

# %% [markdown]
# ## How far may a parameter go?
#
# The profile holds a parameter at a value and refits the rest; its interval ends where the refit is significantly worse.
# An end that is never reached is unbounded, and said to be. A 90 % interval misses the planted number one time in ten, and
# parameters that trade against each other miss it together.

# %%
shown = profiles(found.fit, level=OPTIONS.level)
for name, one in zip(found.fit.law.names, shown, strict=True):
    print(f"{name:6} {one.interval}   planted: {TRUTH[name]:g}")

# %%
SVG(style.svg(figures.profile_curves(shown, found.fit.law.names, num_runs=found.fit.num_runs)))

# %% [markdown]
# ## The law and what it leaves

# %%
SVG(style.svg(figures.law_curves(found.fit, found.boot, targets=found.predictions)))

# %%
SVG(style.svg(figures.residuals(found.fit)))
