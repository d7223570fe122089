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
# # Compute-optimal size, three ways, and what a better recipe saves
#
# How should a budget be split between model and data? The envelope of the best runs, the bottoms of IsoFLOP valleys and a
# fitted surface each answer, from one table. None of them is the truth; where they differ by more than their intervals, the
# table does not settle the question.

# %%
import numpy as np
from IPython.display import SVG

from analysis import figures
from unisc.report import style
from unisc.scaling import compute_optimal, effective_speedup, isoflop
from unisc.scaling.read import read_table
from unisc.scaling.runs import Runs
from unisc.scaling.speedup import Recipe

TABLE = None  # a table of your own with columns N, D and loss


# %%
def planted(amplitude: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return size, data and loss of runs at seven budgets, nine sizes each around the best."""
    budgets, factors = np.geomspace(1e17, 1e20, 7), np.geomspace(1 / 8, 8, 9)
    compute, factor = (axis.ravel() for axis in np.meshgrid(budgets, factors, indexing="ij"))
    size = factor * 1.1e8 * (compute / 1e18) ** 0.45
    data = compute / (6 * size)
    loss = 1.7 + amplitude * (400 * size**-0.34 + 410 * data**-0.28)
    return size, data, loss * np.exp(2e-3 * np.random.default_rng(seed).standard_normal(len(size)))


if TABLE is None:
    size, data, loss = planted(1.0, 0)
else:
    table = read_table(TABLE)
    size, data, loss = (table.numbers(name) for name in ("N", "D", "loss"))
runs = Runs.of(size=size, data=data, loss=loss)

# %% [markdown]
# ## Valleys

# %%
SVG(style.svg(figures.isoflop_valleys(isoflop(runs, draws=300))))

# %% [markdown]
# ## Three approaches and their disagreement

# %%
found = compute_optimal(runs, draws=200)
for name, approach in found.approaches.items():
    print(f"{name:18} exponent of the optimal size {approach.size_exponent}")
for row in found.disagreement:
    print(f"at {row.compute:.3g} FLOPs the sizes differ {row.size_ratio:.2f}-fold, {row.smallest} to {row.largest}")
for bias in found.bias:
    print(f"{bias.reading} misses the exponent of noiseless valleys of the fitted surface by {bias.size_exponent:+.3f}")

# %%
SVG(style.svg(figures.approaches(found)))

# %% [markdown]
# ## What a better recipe saves
#
# Recipe B reaches the losses of A with less compute; how much less, with both floors held to be the same and then each free.

# %%
a = Recipe.of("A", size, data, loss, draws=200)
b = Recipe.of("B", *planted(0.9, 1), draws=200)
for floor in ("shared", "free"):
    saved = effective_speedup(a, b, [1e18, 1e20], floor=floor)
    print(floor, *(f"at {point.compute:.0e}: {point.speedup}" for point in saved.points), sep="   ")

# %%
SVG(style.svg(figures.speedup(effective_speedup(a, b, np.geomspace(1e17, 1e21, 9)))))
