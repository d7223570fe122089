"""Published fits run again: what was printed, what this package obtains, the tolerance, and the verdict.

The tables are not part of the package; `folder` holds one folder each (their READMEs name source and licence):
`epoch_chinchilla` (arXiv 2404.10102), `porian_isoflop` (2406.19146), `gadre_overtrain` (2403.08540),
`muennighoff_dataconstrained` (2305.16264), `bnsl_4digit` (2210.14891).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unisc.errors import InputError
from unisc.scaling.bootstrap import bootstrap
from unisc.scaling.contract import Contract
from unisc.scaling.fit import fit
from unisc.scaling.isoflop import isoflop
from unisc.scaling.optimum_law import weighted_power
from unisc.scaling.profile import profile
from unisc.scaling.read import RunTable, read_table
from unisc.scaling.runs import Runs


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One anchor: the published number (or bound), the obtained one, and how far apart they may be.

    `kind` "near" asks for a difference of at most the tolerance, "most" for no more than published plus the tolerance.
    """

    id: str
    what: str
    published: float
    obtained: float
    tolerance: float
    kind: str = "near"

    @property
    def passed(self) -> bool:
        """Whether the obtained number is within the tolerance."""
        difference = self.obtained - self.published
        return bool(difference <= self.tolerance if self.kind == "most" else abs(difference) <= self.tolerance)

    def to_json(self) -> dict[str, Any]:
        """Return every field and the verdict."""
        names = ("id", "what", "published", "obtained", "tolerance", "kind", "passed")
        return {name: getattr(self, name) for name in names}


def replay(folder: Path | str) -> Iterator[Check]:
    """Yield the checks of every anchor in a folder, in order.

    Raises:
      InputError: a table that is not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one that holds epoch_chinchilla/, porian_isoflop/ and the others")
    for anchor in ANCHORS:
        yield from anchor(folder)


def _epoch(folder: Path) -> Iterator[Check]:
    table = read_table(folder / "epoch_chinchilla" / "svg_extracted_data.csv")
    size, compute, loss = (table.numbers(name) for name in ("Model Size", "Training FLOP", "loss"))
    data = compute / (6 * size)
    keep = loss < np.sort(loss)[-5]
    columns = [column[keep] for column in (size, data, loss)]
    began = time.perf_counter()
    found = fit("chinchilla", *columns, contract=Contract(trimming="5 highest losses"))
    secs = time.perf_counter() - began
    yield Check(
        id="A1", what="Chinchilla, 240 points, Huber 1e-3 on log: objective", published=0.00101827410,
        obtained=found.objective, tolerance=1e-10, kind="most",
    )  # fmt: skip
    for name, value in (("alpha", 0.34731), ("beta", 0.36717)):
        yield Check(id="A1", what=f"the same: {name}", published=value, obtained=found.params[name], tolerance=1e-4)
    absolute = fit("chinchilla", *columns, contract=Contract(loss="absolute"))
    for name, value in (("alpha", 0.34781), ("beta", 0.36585), ("E", 1.81686)):
        yield Check(
            id="A2", what=f"least absolute deviations: {name}", published=value, obtained=absolute.params[name], tolerance=1e-4
        )
    errors = bootstrap(found, draws=4000).standard_errors()
    for name, value in (("alpha", 0.0154), ("beta", 0.0206), ("E", 0.0257)):
        yield Check(
            id="A3", what=f"4,000 resamples: standard error of {name}", published=value, obtained=errors[name],
            tolerance=0.05 * value,
        )  # fmt: skip
    small = keep & (compute < 1e21)
    columns = [column[small] for column in (size, data, loss)]
    squared = fit("chinchilla", *columns, contract=Contract(space="loss", loss="squared"))
    yield Check(
        id="A4", what="217 points, squared on loss: sum of squares", published=0.062414, obtained=2 * squared.objective,
        tolerance=1e-5,
    )  # fmt: skip
    for what, contract, value in (
        ("squared on log: beta", Contract(loss="squared"), 0.4430),
        ("Huber on loss: beta", Contract(space="loss"), 0.4058),
    ):
        obtained = fit("chinchilla", *columns, contract=contract).params["beta"]
        yield Check(id="A4", what=f"217 points, {what}", published=value, obtained=obtained, tolerance=1e-3)
    yield Check(id="A5", what="seconds of the point fit", published=0.2, obtained=secs, tolerance=0.0, kind="most")


def _porian(folder: Path) -> Iterator[Check]:
    pairs = read_table(folder / "porian_isoflop" / "optimal_pairs.csv")
    points = read_table(folder / "porian_isoflop" / "isoflop_points.csv")
    published = read_table(folder / "porian_isoflop" / "published_fits.csv")
    for config, method, value in zip(
        published.words("config"), published.words("method"), published.numbers("n_exponent"), strict=True
    ):
        if method != _PORIAN_METHOD:
            continue
        of = _present(pairs.where("config", config), "n")
        exact = float(weighted_power(of.numbers("flops"), of.numbers("n"), of.numbers("n_star_std"))[0])
        yield Check(id="B1", what=f"{config}: exponent of the optima", published=value, obtained=exact, tolerance=1e-9)
        raw = points.where("config", config)
        runs = Runs.of(size=raw.numbers("n"), loss=raw.numbers("loss"), compute=raw.numbers("flops"))
        obtained = isoflop(runs).size_law["akima"].exponent
        yield Check(id="B2", what=f"{config}: exponent from raw points", published=value, obtained=obtained, tolerance=0.01)


_PORIAN_METHOD = "weighted"


def _present(table: RunTable, name: str) -> RunTable:
    return table.take(table.words(name) != "")


def _gadre(folder: Path) -> Iterator[Check]:
    table = read_table(folder / "gadre_overtrain" / "runs104.csv").where("train_set", "rpj")
    size, data, loss, times = (table.numbers(name) for name in ("N", "D", "loss_c4_val", "cc_mult"))
    train = (size < 1e9) & (times == 1) | (size == size.min()) & (times == 16)
    found = fit("tied", size[train], data[train], loss[train], contract=Contract(space="loss", loss="squared"))
    for what, run, value in (
        ("1.4B at 640 tokens a parameter", (size > 1e9) & (size < 2e9) & (np.abs(data / size / 640 - 1) < 0.05), 0.7103),
        ("6.9B at 20 tokens a parameter", (size > 6e9) & (np.abs(data / size / 20 - 1) < 0.05), 0.7320),
    ):
        error = 100 * abs(found.predict(size[run], data[run]) / loss[run] - 1)
        yield Check(id="C1", what=f"error in % for {what}", published=value, obtained=float(error[0]), tolerance=1e-3)


def _muennighoff(folder: Path) -> Iterator[Check]:
    table = read_table(folder / "muennighoff_dataconstrained" / "fit182.csv")
    columns = [table.numbers(name) for name in ("params", "tokens", "unique_tokens", "val_loss")]
    base = {"A": np.exp(6.255414), "B": np.exp(7.3049974), "E": np.exp(0.6254804), "alpha": 0.3526596, "beta": 0.3526596}
    found = fit("data_constrained", *columns, fixed=base)
    yield Check(
        id="D1",
        what="data-constrained law: objective",
        published=0.015808,
        obtained=found.objective,
        tolerance=0.0,
        kind="most",
    )
    opened = profile(found, "R_D").high is None
    yield Check(id="D1", what="R_D is said to be unbounded above (1 is yes)", published=1, obtained=float(opened), tolerance=0)


def _bnsl(folder: Path) -> Iterator[Check]:
    table = read_table(folder / "bnsl_4digit" / "points.csv")
    train = table.words("split") == "train"
    size, error = table.numbers("dataset_size"), table.numbers("test_ce")
    found = fit("bnsl", size[train], error[train], contract=Contract(loss="squared"))
    miss = np.log1p(found.predict(size[~train])) - np.log1p(error[~train])
    yield Check(
        id="J1", what="one break, last three points: rmsle", published=0.02, obtained=float(np.sqrt((miss**2).mean())),
        tolerance=0.0, kind="most",
    )  # fmt: skip


ANCHORS: tuple[Callable[[Path], Iterator[Check]], ...] = (_epoch, _porian, _gadre, _muennighoff, _bnsl)
