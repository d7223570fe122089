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
# # A figure for a paper
#
# Vector graphics whose text stays text (searchable, and set in the paper's size), colours that the common colour deficiencies
# keep apart with markers that say the same, and files that are the same, byte for byte, when made again.

# %%
import tempfile
from pathlib import Path

import numpy as np
from IPython.display import SVG

from analysis import figures
from unisc.report import style
from unisc.scaling import Contract, bootstrap, fit

OUT = Path(tempfile.mkdtemp())  # where the files go
ORIGINS = ("exposed", "attributed", "searchified")

# %% [markdown]
# ## The runs
#
# Losses of models trained on mixtures of three kinds of samples. An attributed one was planted to be worth 0.6 exposed ones
# and a searchified one 0.31.

# %%
rng = np.random.default_rng(0)
mixes = np.array([(1, 0, 0), (1, 1, 0), (1, 0.5, 1), (1, 1, 2)])
size, data, mix = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e4, 1e6, 4), np.geomspace(1e5, 3e6, 4), np.arange(4)))
examples = data[:, None] * mixes[mix.astype(int)]
effective = examples @ np.array([1.0, 0.6, 0.31])
loss = (0.30 + 0.6 * size**-0.3 + 2.0 * effective**-0.35) * np.exp(1e-3 * rng.standard_normal(len(size)))

# %%
contract = Contract(metric="log_loss", loss="squared")
found = fit("composition", size, *examples.T, loss, contract=contract, labels=("N", *ORIGINS))
boot = bootstrap(found, draws=200)
for origin in ORIGINS[1:]:
    print(f"one {origin} example is worth {boot.interval(f'w_{origin}')} exposed ones")

# %% [markdown]
# ## The figure
#
# `figures.*` return a matplotlib figure: change what your paper needs changed, then save it once.

# %%
figure = figures.composition_curves(found, boot)
figure.set_size_inches(7.0, 3.2)
figure.axes[0].set_title("What an example is worth")
SVG(style.svg(figure))

# %%
paths = style.save(figures.composition_curves(found, boot), OUT, "composition")
for kind, path in paths.items():
    print(f"{kind}: {path.name}, {path.stat().st_size:,} bytes")
