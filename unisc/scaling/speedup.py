"""How much compute one recipe saves against another: equal-loss compute and effective speedup, floors pinned or free."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unisc.errors import InputError
from unisc.scaling.bootstrap import bootstrap
from unisc.scaling.contract import Contract
from unisc.scaling.fit import Fit, fit
from unisc.scaling.intervals import Interval, percentile_interval
from unisc.scaling.optimal import Path, Surface, compute_to_reach, ln_optimal_size, loss_along
from unisc.scaling.solve import solve


@dataclass(frozen=True, slots=True)
class EqualLoss:
    """Hold what recipe B needs to reach the loss that recipe A has at a compute.

    `needed` is B's compute and `speedup` A's compute over it: 2 means that B is there with half. Where the loss lies at or
    under B's floor, `needed` is infinite and `speedup` 0; `verdict` says so. `size` and `data` are B's there, None if never.
    """

    compute: float
    loss: Interval
    needed: Interval
    speedup: Interval
    size: float | None
    data: float | None
    share_never: float
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Return every field; an infinite `needed` has value null."""
        needed = self.needed.to_json()
        needed["value"] = needed["value"] if np.isfinite(needed["value"]) else None
        return {
            "compute": self.compute,
            "loss": self.loss.to_json(),
            "needed": needed,
            "speedup": self.speedup.to_json(),
            "size": self.size,
            "data": self.data,
            "share_never": self.share_never,
            "verdict": self.verdict,
        }


def equal_loss(
    a: Surface, b: Surface, compute: float, *, path: Path = "optimal", level: float = 0.90, paired: bool = False
) -> EqualLoss:
    """Ask how much compute B needs for A's loss at `compute`, both along a path.

    The path is "optimal", each recipe compute-optimal by its own law, or a number of examples a parameter. Draws of the two are
    taken as independent unless `paired`.
    """
    if not (np.isfinite(compute) and compute > 0):
        raise InputError(f"compute is {compute}; give a positive number of FLOPs")
    if path != "optimal" and not (isinstance(path, int | float) and path > 0):
        raise InputError(f"path is {path!r}; give 'optimal' or a positive number of examples a parameter")
    count = min(len(a.draws), len(b.draws))
    others = b.draws[:count] if paired else np.random.default_rng(0).permutation(b.draws)[:count]
    losses = [loss_along(p, compute, a.flops_factor, path) for p in (a.natural, a.draws[:count])]
    needs = [compute_to_reach(p, loss, b.flops_factor, path) for p, loss in zip((b.natural, others), losses, strict=True)]
    loss, need = float(losses[0]), float(needs[0])
    never = float(np.mean(np.isinf(needs[1]))) if count else float(np.isinf(need))
    size = data = None
    if np.isfinite(need):
        work = need / b.flops_factor
        size = float(np.exp(ln_optimal_size(b.natural, need, b.flops_factor)) if path == "optimal" else np.sqrt(work / path))
        data = work / size
        verdict = f"B reaches {loss:.4g} with {need:.3g} FLOPs and A with {compute:.3g}: speedup {compute / need:.3g}"
        if never > 0:
            verdict += f"; in {never:.0%} of the draws never, its floor being above"
    else:
        verdict = f"B never reaches {loss:.4g}, A's loss at {compute:.3g} FLOPs: its floor is {b.natural[0]:.4g}"
    method = f"{a.method}, both recipes"
    return EqualLoss(
        compute=compute,
        loss=percentile_interval(loss, losses[1], level, a.method),
        needed=percentile_interval(need, needs[1], level, method),
        speedup=percentile_interval(compute / need, compute / needs[1], level, method),
        size=size,
        data=data,
        share_never=never,
        verdict=verdict,
    )


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hold a recipe's runs (n,), its free Chinchilla fit and the fit's surface; `clusters` are resampled whole."""

    name: str
    size: np.ndarray
    data: np.ndarray
    loss: np.ndarray
    clusters: np.ndarray | None
    fitted: Fit
    surface: Surface
    seed: int

    @classmethod
    def of(
        cls,
        name: str,
        size,
        data,
        loss,
        *,
        contract: Contract | None = None,
        clusters=None,
        flops_factor: float = 6.0,
        draws: int = 1000,
        seed: int = 0,
    ) -> "Recipe":
        """Fit a recipe's runs and bootstrap the fit; raises `InputError` as `fit` and `bootstrap` do."""
        fitted = fit("chinchilla", size, data, loss, contract=contract)
        surface = Surface.of(fitted, bootstrap(fitted, clusters=clusters, draws=draws, seed=seed), flops_factor=flops_factor)
        size, data, loss = (np.asarray(column, float) for column in (size, data, loss))
        labels = None if clusters is None else np.asarray(clusters)
        return cls(name, size, data, loss, labels, fitted, surface, seed)

    def with_floor(self, floor: float, floors=None) -> Surface:
        """Refit with the floor pinned at a number; `floors` (S,) pins the floor of every draw, by default at the same."""
        lowest = float(self.loss.min())
        levels = np.full(len(self.surface.draws), floor) if floors is None else np.asarray(floors, float)
        for level in (floor, float(levels.max())):
            if not 0 <= level < lowest:
                raise InputError(f"the floor {level:.4g} is not from 0 to the smallest loss, {lowest:.4g}; give one that is")
        contract, columns = self.fitted.contract, (self.size, self.data, self.loss)
        pinned = fit("chinchilla", *columns, contract=contract, fixed={"E": floor})
        labels = np.arange(len(self.loss)) if self.clusters is None else np.unique(self.clusters, return_inverse=True)[1]
        groups = int(labels.max()) + 1
        # Another stream than the free fit's: a shared floor's draws come from the other recipe.
        rng = np.random.default_rng([self.seed, 1])
        times = rng.multinomial(groups, np.full(groups, 1 / groups), size=len(levels))[:, labels]
        start, lower, upper = (np.tile(of, (len(levels), 1)) for of in (pinned.theta, pinned.lower, pinned.upper))
        start[:, 0] = lower[:, 0] = upper[:, 0] = np.log(np.maximum(levels, 1e-300))
        refits = solve(pinned.problem, start, lower, upper, times)
        natural = pinned.law.natural(np.concatenate([pinned.theta[None], refits.theta]))
        method = f"{self.surface.method}, floor pinned"
        return Surface(natural[0], natural[1:], self.surface.flops_factor, method)


@dataclass(frozen=True, slots=True)
class Speedup:
    """Hold the effective speedup of recipe B over recipe A at several computes of A, and how their floors were treated."""

    a: str
    b: str
    floor: str
    path: Path
    points: tuple[EqualLoss, ...]

    def to_json(self) -> dict[str, Any]:
        """Return `a`, `b`, `floor`, `path` and `points` (see `EqualLoss`)."""
        points = [point.to_json() for point in self.points]
        return {"a": self.a, "b": self.b, "floor": self.floor, "path": self.path, "points": points}


def effective_speedup(
    a: Recipe,
    b: Recipe,
    compute,
    *,
    floor: Literal["free", "shared"] | float = "shared",
    path: Path = "optimal",
    level: float = 0.90,
) -> Speedup:
    """Return how many times less compute B needs than A for A's loss at each compute, a number or an array (m,).

    Free floors let the laws differ in the limit too, so that the speedup drifts to 0 or without bound with compute; a shared
    floor, A's, says that both recipes learn the same thing at different prices; a number pins both there. Raises `InputError`
    when the fits' contracts differ.
    """
    a.fitted.contract.require_same(b.fitted.contract)
    paired = floor == "shared"
    if floor == "free":
        first, second, said = a.surface, b.surface, f"free: {a.surface.natural[0]:.4g} and {b.surface.natural[0]:.4g}"
    elif floor == "shared":
        level_a = float(a.surface.natural[0])
        first, said = a.surface, f"shared: {level_a:.4g}, fitted to {a.name}"
        # A draw of A's floor above B's best run cannot be B's floor; it is held just under it.
        second = b.with_floor(level_a, np.minimum(a.surface.draws[: len(b.surface.draws), 0], 0.999 * b.loss.min()))
    elif isinstance(floor, int | float):
        first, second, said = a.with_floor(float(floor)), b.with_floor(float(floor)), f"pinned: {floor:.4g}"
    else:
        raise InputError(f"floor is {floor!r}; give 'free', 'shared' or a number")
    budgets = np.atleast_1d(np.asarray(compute, float))
    points = tuple(equal_loss(first, second, float(c), path=path, level=level, paired=paired) for c in budgets)
    return Speedup(a.name, b.name, said, path, points)
